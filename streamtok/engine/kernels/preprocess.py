"""A camera's bytes, as they come, to resized uint8 planes on the GPU: the same bytes as `streamtok.engine.preprocess`.

One pass per frame, on a stream of its own while the group fills; the group's Haar transform then reads those planes
inside the captured step (`kernels.haar`). The source is `pixels.cu`, compiled by cupy at its first use; tests compile
it for the CPU and hold it to the numpy code byte for byte.
"""

from importlib.resources import files
from math import gcd
from typing import Any

import numpy as np
import torch
from torch import Tensor

from streamtok.engine.pixels import ALIASES, PACKED_422, PIXEL_BYTES, coefficients
from streamtok.engine.preprocess import fit_rectangles

PACKED_OFFSETS = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2), "bgra8": (2, 1, 0)}
KINDS = {"mono8": 1, "uyvy": 2, "yuyv": 2, "nv12": 3, "i420": 4} | dict.fromkeys(PACKED_OFFSETS, 0)
FIELDS = (
    "height", "width", "step", "out_height", "out_width", "window_top", "window_left", "rect_top", "rect_left",
    "rect_height", "rect_width", "sy", "dy", "sx", "dx", "red", "green", "blue", "pixel_bytes", "y_at", "u_at", "v_at",
    "y0",
    *(f"matrix{i}" for i in range(9)), "red_row", "red_column", "blue_row", "blue_column",
)  # fmt: skip
SHAPE = np.dtype([(name, np.int32) for name in FIELDS])
BLOCK = (32, 8)


def source_code() -> str:
    """The text of `pixels.cu`, without the definitions that select an encoding."""
    return files("streamtok.engine.kernels").joinpath("pixels.cu").read_text()


def encoding_kind(encoding: str) -> int:
    """The ENCODING that `pixels.cu` is compiled with."""
    encoding = ALIASES.get(encoding, encoding)
    if encoding not in PIXEL_BYTES:
        raise ValueError(f"pixel encoding {encoding!r}: expected one of {', '.join((*PIXEL_BYTES, *ALIASES))}")
    return KINDS.get(encoding, 5)


def shape_of(
    source_size: tuple[int, int], encoding: str, size: tuple[int, int] | None = None, fit: str = "stretch",
    multiple: int = 8, step: int | None = None, color: tuple[str, bool] = ("bt601", False),
) -> np.ndarray:  # fmt: skip
    """The `Shape` of `pixels.cu` as one record of int32; arguments as `Preprocessor` and `to_rgb` take them."""
    encoding = ALIASES.get(encoding, encoding)
    kind, (height, width) = encoding_kind(encoding), source_size
    (tall, wide), window, rect = fit_rectangles(source_size, size, fit, multiple)
    shape = np.zeros((), SHAPE)
    values: dict[str, int] = {
        "height": height, "width": width, "step": step or width * PIXEL_BYTES[encoding], "out_height": tall,
        "out_width": wide, "window_top": window[0], "window_left": window[1], "rect_top": rect[0], "rect_left": rect[1],
        "rect_height": rect[2], "rect_width": rect[3], "pixel_bytes": PIXEL_BYTES[encoding],
    }  # fmt: skip
    for axis, source, target in (("y", window[2], rect[2]), ("x", window[3], rect[3])):
        common = gcd(source, target)
        values |= {f"s{axis}": source // common, f"d{axis}": target // common}
    if kind == 0:
        values |= dict(zip(("red", "green", "blue"), PACKED_OFFSETS[encoding], strict=True))
    if kind == 2:
        values |= dict(zip(("y_at", "u_at", "v_at"), PACKED_422[encoding], strict=True))
    if kind in (2, 3, 4):
        black, table = coefficients(*color)
        values |= {"y0": black} | {f"matrix{i}": int(value) for i, value in enumerate(table.ravel())}
    if kind == 5:
        order = encoding[6:10]
        for name, letter in (("red", "r"), ("blue", "b")):
            values |= {f"{name}_row": order.index(letter) // 2, f"{name}_column": order.index(letter) % 2}
    for name, value in values.items():
        shape[name] = value
    return shape


class GpuPreprocessor:
    """One camera's frames, uint8 in any encoding of `to_rgb`, to planes in a group's buffer on the GPU.

    `put(data, target)` copies into pinned memory, uploads and converts on this object's own CUDA stream and returns at
    once; `ready()` makes the current stream wait for it. Other arguments as `Preprocessor` and `to_rgb` take them.
    ImportError says what to install without cupy.
    """

    def __init__(
        self, source_size: tuple[int, int], encoding: str = "rgb8", size: tuple[int, int] | None = None,
        fit: str = "stretch", multiple: int = 8, step: int | None = None,
    ) -> None:  # fmt: skip
        self._cupy = import_cupy()
        self.shape = shape_of(source_size, encoding, size, fit, multiple, step)
        self.size = int(self.shape["out_height"]), int(self.shape["out_width"])
        rows = source_size[0] * 3 // 2 if encoding_kind(encoding) in (3, 4) else source_size[0]
        self.bytes = rows * int(self.shape["step"])
        options = ("-DDEVICE=__device__ static inline", f"-DENCODING={encoding_kind(encoding)}", "-std=c++14")
        self._kernel = self._cupy.RawModule(code=source_code(), options=options).get_function("prepare")
        self._pinned = [torch.empty(self.bytes, dtype=torch.uint8).pin_memory() for _ in range(2)]
        self._device = [torch.empty(self.bytes, dtype=torch.uint8, device="cuda") for _ in range(2)]
        self._events = [torch.cuda.Event() for _ in range(2)]
        self._numbers = torch.from_numpy(self.shape.reshape(1).view(np.int32)).cuda()
        self._stream, self._turn = torch.cuda.Stream(), 0

    def put(self, data: np.ndarray, target: Tensor) -> None:
        """data: the camera's bytes; target: uint8 (3, H, W) on the GPU, rows contiguous, planes any stride apart."""
        flat = np.ascontiguousarray(data).reshape(-1)
        if flat.dtype != np.uint8 or flat.size < self.bytes:
            raise ValueError(f"image data is {flat.size} bytes of {flat.dtype}, expected {self.bytes} of uint8")
        height, width = self.size
        if tuple(target.shape) != (3, height, width) or target.stride()[1:] != (width, 1):
            raise ValueError(
                f"target is {tuple(target.shape)}, strides {target.stride()}; expected (3, {height}, {width})"
            )
        turn, self._turn = self._turn, 1 - self._turn
        self._events[turn].synchronize()  # the upload of two frames ago has left this staging buffer
        self._pinned[turn].numpy()[:] = flat[: self.bytes]
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._device[turn].copy_(self._pinned[turn], non_blocking=True)
            self._launch(self._device[turn], target)
            self._events[turn].record(self._stream)

    def _launch(self, data: Tensor, target: Tensor) -> None:
        cupy, (height, width) = self._cupy, self.size
        grid = (-(-width // BLOCK[0]), -(-height // BLOCK[1]))
        # zero-copy: cupy sees torch's memory; the target's planes are found by their distance
        source, planes, numbers = (cupy.from_dlpack(tensor) for tensor in (data, target[0], self._numbers))
        with cupy.cuda.ExternalStream(self._stream.cuda_stream):
            self._kernel(grid, BLOCK, (source, planes, np.int64(target.stride(0)), numbers))

    def ready(self) -> None:
        """Make the current CUDA stream wait for every frame that was put."""
        torch.cuda.current_stream().wait_stream(self._stream)


def import_cupy() -> Any:
    """The cupy module, or ImportError that says how to install it."""
    try:
        import cupy
    except ImportError as error:
        raise ImportError(
            "preprocessing on the GPU needs cupy: pip install 'streamtok[cuda13]' (or [cuda12]); without it frames are "
            "prepared on the CPU"
        ) from error
    return cupy
