"""Prepare frames on arrival (convert, resize, upload to the network's device), in a way that the device decides.

    preparing = preparing_for(device)                 # one per core
    resize = Preprocessor((720, 1280), (256, 448))    # one per camera and size of its pictures
    prepare = preparing.preparer(resize)
    planes = prepare(frame)                           # on the camera's thread
    planes.copy_to(buffer[0, :, t])                   # on the thread that steps, before the step

| device | the camera's thread | then, on a CUDA stream of the camera's own |
| --- | --- | --- |
| CPU | converts and resizes (`Preprocessor`) | |
| GPU with cupy | copies the camera's bytes to pinned memory | upload, conversion and resizing (`kernels/pixels.cu`) |
| GPU without | converts and resizes, copies that to pinned memory | upload |

All three give the same bytes. On a GPU `prepare` returns once the work is queued; nothing on the host waits for it.
`copy_to` makes the network's stream wait for the frame's event and then copies within the device.

**When memory is reused.** Every frame has memory of its own, pinned, raw and prepared, for as long as Python holds it.
PyTorch's allocators then reuse blocks. A pinned one is free after its upload, a device block in the order of the
camera's stream. After `record_stream` it is free only once the network's stream has copied it. The group's buffer is
written and read on the network's stream alone.

**CUDA graphs.** While a graph is captured, no other thread may allocate, load or query anything on the device. So all
such work here takes a lock, the gate; code that may capture a graph holds it (`paused`). Replays do not need it.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from streamtok.engine.gpu.kernels.preprocess import load_kernel, pack_shape
from streamtok.preprocessing.pixels import RawImage
from streamtok.preprocessing.preprocessor import Preprocessor
from streamtok.types import Frame, Planes

log = logging.getLogger("streamtok.ingest")

Kernel = Callable[[Tensor, Tensor, Tensor], None]
Work = Callable[[Tensor], Tensor]
"""What is done on the device with the bytes that were uploaded: uint8 (n,) -> planes uint8 (3, H, W)."""
NUMBERS_ROOM = 256
"""Bytes for the kernel's parameters before the image in an upload, padded so that the image begins aligned."""


@dataclass(frozen=True)
class HostPlanes:
    """Planes in the host's memory."""

    planes: Tensor

    def copy_to(self, target: Tensor) -> None:
        target.copy_(self.planes)


@dataclass(frozen=True)
class CudaPlanes:
    """Planes on a GPU, ready after the event `done`."""

    planes: Tensor
    done: torch.cuda.Event

    def copy_to(self, target: Tensor) -> None:
        reader = torch.cuda.current_stream(target.device)
        reader.wait_event(self.done)
        target.copy_(self.planes)
        self.planes.record_stream(reader)


class CudaLink:
    """Pinned memory and a CUDA stream, of high priority so that a frame need not wait for a step's kernels."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device, priority=-1)

    def stage(self, size: int) -> Tensor:
        """Free pinned memory on the host, uint8 (size,)."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def run(self, staged: Tensor, work: Work) -> Planes:
        """Queue the upload of `staged`, and `work` on it; returns at once."""
        with torch.cuda.stream(self._stream):
            planes = work(staged.to(self._device, non_blocking=True))
            return CudaPlanes(planes, self._stream.record_event())


class Preparer:
    """Converts and resizes the frames of one camera, all of `source_size` (height, width), for a network on the CPU.

    `size` is the (H, W) of the result, `rect` (top, left, height, width) where the picture lies in it.
    """

    def __init__(self, resize: Preprocessor) -> None:
        self.source_size, self.size, self.rect = resize.source_size, resize.size, resize.rect
        self._resize = resize

    def __call__(self, frame: Frame) -> Planes:
        """Prepare a frame; its picture may be overwritten once this returns.

        Raises ValueError or TypeError for pictures of another size or type.
        """
        return HostPlanes(torch.from_numpy(self._resize(frame.image)))


class UploadingPreparer(Preparer):
    """Converts and resizes frames on the CPU, and uploads the planes; all work on the device takes the `gate`."""

    def __init__(self, resize: Preprocessor, link: CudaLink, gate: threading.Lock) -> None:
        super().__init__(resize)
        self._link, self._gate = link, gate

    def __call__(self, frame: Frame) -> Planes:
        planes = self._resize(frame.image)
        return self._upload([planes.reshape(-1)], lambda data: data.view(planes.shape))

    def _upload(self, parts: list[np.ndarray], work: Work) -> Planes:
        """Upload flat uint8 arrays, joined, and queue `work` on them."""
        with self._gate:
            staged = self._link.stage(sum(part.size for part in parts))
        np.concatenate(parts, out=staged.numpy())  # the bulk of the host's work, outside the gate
        with self._gate:
            return self._link.run(staged, work)


class KernelPreparer(UploadingPreparer):
    """Uploads a camera's raw bytes, then converts and resizes them on the device."""

    def __init__(
        self, resize: Preprocessor, link: CudaLink, gate: threading.Lock, load_kernel: Callable[[str], Kernel]
    ) -> None:
        super().__init__(resize, link, gate)
        self._kernel_of = load_kernel
        self._numbers_of = cache(partial(pack_numbers, resize))

    def __call__(self, frame: Frame) -> Planes:
        raw = frame.picture
        if raw.shape != (*self.source_size, 3):
            raise ValueError(f"picture of shape {raw.shape}: this preparer was made for {self.source_size}, RGB")
        if isinstance(raw, np.ndarray):
            raw = RawImage(raw, "rgb8", *self.source_size)

        def convert(data: Tensor) -> Tensor:
            planes = torch.empty(3, *self.size, dtype=torch.uint8, device=data.device)
            self._kernel_of(raw.encoding)(data[NUMBERS_ROOM:], planes, data[:NUMBERS_ROOM].view(torch.int32))
            return planes

        return self._upload([self._numbers_of(raw.encoding, raw.step), raw.data], convert)


def pack_numbers(resize: Preprocessor, encoding: str, step: int) -> np.ndarray:
    """The kernel's parameters for images of one layout, uint8 (NUMBERS_ROOM,)."""
    shape, room = pack_shape(resize, encoding, step), np.zeros(NUMBERS_ROOM, np.uint8)
    room[: shape.nbytes] = shape.reshape(1).view(np.uint8)
    return room


class Preparing:
    """Makes the preparers for one device: on the CPU without a `link`, else with one link per camera.

    `load_kernel` gives the kernel of an encoding; without it, pictures are prepared on the CPU and uploaded.
    """

    def __init__(
        self, link: Callable[[], CudaLink] | None = None, load_kernel: Callable[[str], Kernel] | None = None
    ) -> None:
        self._link, self._kernel_of = link, load_kernel
        self._gate = threading.Lock()

    def preparer(self, resize: Preprocessor) -> Preparer:
        """A preparer for one camera's pictures, with the same result as `resize`."""
        if self._link is None:
            return Preparer(resize)
        with self._gate:
            link = self._link()
        if self._kernel_of is None or resize.channels != 3:  # the kernel takes colour pictures only
            return UploadingPreparer(resize, link, self._gate)
        return KernelPreparer(resize, link, self._gate, self._kernel_of)

    @property
    def on_device(self) -> bool:
        """Whether a kernel on the device converts and resizes."""
        return self._kernel_of is not None

    def paused(self) -> AbstractContextManager[bool]:
        """A lock that keeps preparers from using the device, to be held during graph capture. Not reentrant."""
        return self._gate


def preparing_for(device: torch.device) -> Preparing:
    """The preparing of frames for a network on `device`."""
    if device.type != "cuda":
        return Preparing()
    return Preparing(lambda: CudaLink(device), _gpu_kernels())


def _gpu_kernels() -> Callable[[str], Kernel] | None:
    """The GPU's kernels if cupy can build them here; else None, and the log says why."""
    try:
        load_kernel("rgb8")
    except ImportError as error:
        log.info("event=prepare_on_cpu reason=%r", str(error))
    except Exception as error:  # cupy raises many kinds; a library that does not fit the driver must not stop a node
        log.warning("event=prepare_on_cpu reason='cupy cannot build its kernel' error=%r", error)
    else:
        return load_kernel
    return None
