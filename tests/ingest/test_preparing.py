"""Frames reach the network's device with the CPU's bytes, however many wait, drop, change size or come at once.

On the CPU a thread that is slow on purpose plays a camera's CUDA stream: work is queued, done later and in order, and
memory to upload from is handed out again as soon as it has been read. Where there is a GPU the same tests run on it.
"""

import queue
import random
import threading
import time
from collections import deque
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from streamtok.engine.gpu.kernels import preprocess
from streamtok.ingest.core import IngestCore, StreamOptions
from streamtok.ingest.preparing import CudaLink, Preparing, preparing_for
from streamtok.io.base import Source
from streamtok.io.capture import Capture
from streamtok.model import Tokenizer
from streamtok.preprocessing.pixels import RawImage
from streamtok.preprocessing.preprocessor import Preprocessor
from streamtok.types import Frame
from tests.kit.models import SLIM
from tests.kit.pictures import camera_bytes
from tests.kit.pictures import image as picture

TINY = Tokenizer(SLIM, deterministic=True)
SIZE = 16, 24
ENCODINGS = "rgb8", "bgr8", "rgba8", "mono8", "uyvy", "yuyv", "nv12", "i420", "bayer_rggb8", "bayer_gbrg8"
ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


class ThreadLink:
    """A `Link` on the CPU whose work is done by a thread, late."""

    def __init__(self):
        self.work = queue.Queue()
        self.free = deque()
        self._delay = random.Random(0)
        threading.Thread(target=self._serve, daemon=True).start()

    def stage(self, size):
        for _ in range(len(self.free)):
            block = self.free.popleft()
            if block.numel() == size:
                return block
            self.free.append(block)
        return torch.empty(size, dtype=torch.uint8)

    def run(self, staged, work):
        planes = LatePlanes()
        self.work.put((staged, work, planes))
        return planes

    def _serve(self):
        while True:
            staged, work, planes = self.work.get()
            time.sleep(self._delay.choice((0, 0, 0.002, 0.01)))
            data = staged.clone()
            staged.fill_(0xAA)  # whoever still counts on it gets this
            self.free.append(staged)
            planes.finish(work(data))


class LatePlanes:
    def __init__(self):
        self._there = threading.Event()

    def finish(self, planes):
        self._planes = planes
        self._there.set()

    def copy_to(self, target):
        assert self._there.wait(60)
        target.copy_(self._planes)


class Camera(Source):
    """400 pictures a second, 60 of them."""

    live = True

    def _open(self):
        self._number = 0

    def _read(self, timeout):
        if self._number == 60:
            self.end("all delivered")
        time.sleep(1 / 400)
        self._number += 1
        return frame(self._number - 1, stream=self.stream)

    def _close(self):
        pass


@dataclass
class Way:
    """One of the ways to prepare, and a tokenizer on its device."""

    preparing: Preparing
    tokenizer: object

    def core(self, streams="a", **options):
        options = StreamOptions(**{"keyframe_interval": 0, "size": SIZE} | options)
        return IngestCore(self.tokenizer, dict.fromkeys(streams, options), preparing=self.preparing)


@pytest.fixture(
    params=[
        "host",
        "thread, uploads",
        "thread, kernel",
        pytest.param("cuda, uploads", marks=ON_GPU),
        pytest.param("cuda, kernel", marks=ON_GPU),
    ]
)
def way(request):
    device, _, how = request.param.partition(", ")
    if device == "host":
        return Way(preparing_for(torch.device("cpu")), TINY)
    if device == "thread":
        return Way(Preparing(ThreadLink, request.getfixturevalue("load_kernel") if how == "kernel" else None), TINY)
    if how == "kernel":
        pytest.importorskip("cupy", reason="preparing on the GPU needs cupy")
    cuda = torch.device("cuda", 0)
    preparing = Preparing(lambda: CudaLink(cuda), preprocess.load_kernel if how == "kernel" else None)
    return Way(preparing, TINY.cast(device=cuda))


def frame(number, size=(32, 48), stream="a"):
    return Frame(stream, number, 10 * number + 1, picture(number, size, stream))


def raw_frame(number, encoding, size=(32, 48), padding=0):
    data, step = camera_bytes(encoding, *size, padding, seed=number)
    return Frame("a", number, 10 * number + 1, RawImage(data, encoding, *size, step))


def prepared_on_the_cpu(frame):
    return Preprocessor(frame.image.shape[:2], SIZE)(frame.image)


def assert_holds(core, group, frames):
    """The group's buffer has the CPU's bytes of its frames, as long as no other frame has been fed."""
    by_id = {frame.frame_id: frame for frame in frames}
    buffer = core.buffer(group.stream).cpu().numpy()
    for place, frame_id in enumerate(group.frame_ids):
        np.testing.assert_array_equal(buffer[:, place], prepared_on_the_cpu(by_id[frame_id]), err_msg=f"{group}")


def feed(core, items, frames):
    """Groups of `items`, each checked as it comes."""
    groups = []
    for item in items:
        for group in core.feed(item):
            if group.frame_ids[-1] == item.frame_id:
                assert_holds(core, group, frames)
            groups.append(group)
    return groups


def reference(frames, **options):
    """What the core makes of them on the CPU."""
    core = Way(Preparing(), TINY).core(**options)
    return [group for item in frames for group in core.feed(item)]


def assert_same(way, groups, wanted):
    assert [(group.frame_ids, group.epoch) for group in groups] == [(group.frame_ids, group.epoch) for group in wanted]
    if way.tokenizer is TINY:  # another device's arithmetic may give another token
        for group, same in zip(groups, wanted, strict=True):
            np.testing.assert_array_equal(group.tokens, same.tokens)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_cameras_bytes_become_what_the_cpu_makes_of_them(way, encoding):
    frames = [raw_frame(number, encoding, padding=2 * (number % 3)) for number in range(9)]
    assert_same(way, feed(way.core(), frames, frames), reference(frames))


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_sizes_and_fits_are_those_of_the_preprocessor(way, fit):
    core = way.core(fit=fit, size=(24, 24))
    planes = Preprocessor((20, 50), (24, 24), fit)
    assert core.preprocessor("a", (20, 50)).size == planes.size
    assert core.preprocessor("a", (20, 50)).rect == planes.rect
    core.feed(frame(0, (20, 50)))
    found = core.buffer("a")[:, 0].cpu().numpy()
    np.testing.assert_array_equal(found, planes(frame(0, (20, 50)).image))


def test_a_picture_may_be_written_over_once_it_is_prepared(way):
    core, reused = way.core(), np.zeros((32, 48, 3), np.uint8)
    frames, items = [frame(number) for number in range(5)], []
    for original in frames:
        reused[:] = original.image
        items.append(core.prepare(replace(original, picture=reused)))
    reused[:] = 255
    assert_same(way, feed(core, items, frames), reference(frames))


def test_frames_that_wait_keep_their_bytes_while_others_are_dropped(way):
    """A queue that overflows again and again, as a capture thread's does under `latest`."""
    core, fed = way.core(), []
    waiting = deque(maxlen=core.lane("a").most_waiting)
    frames = [frame(number) for number in range(100)]
    groups = []
    for number, item in enumerate(frames):
        waiting.append(core.prepare(item))
        if number % 20 == 19:
            chosen = list(waiting)[-core.lane("a").room_for(len(waiting)) :]
            waiting.clear()
            fed += [frames[item.frame_id] for item in chosen]
            groups += feed(core, chosen, frames)
    assert_same(way, groups, reference(fed))
    assert core.lane("a").counts["dropped"] > 20


def test_resets_and_sizes_that_change_in_mid_group(way):
    sizes = [(32, 48)] * 7 + [(40, 30)] * 6 + [(32, 48)] * 6
    frames = [frame(number, size) for number, size in enumerate(sizes) if number not in (3, 15)]
    core = way.core()
    items = [core.prepare(item) for item in frames]  # all of them wait before the first is fed
    assert_same(way, feed(core, items, frames), reference(frames))
    assert core.lane("a").counts["resizes"] == 2


def test_a_padded_group_repeats_its_last_frame(way):
    core, frames = way.core(policy="lossless"), [frame(number) for number in range(3)]
    feed(core, frames, frames)
    [group] = core.flush("a", "pad")
    assert (group.frame_ids, group.repeated) == ([1, 2], 2)
    buffer = core.buffer("a").cpu().numpy()
    for place in (1, 2, 3):
        np.testing.assert_array_equal(buffer[:, place], prepared_on_the_cpu(frames[2]))


def test_cameras_on_threads_of_their_own(way):
    """Three cameras that may outrun the encoder: every group has its own camera's bytes."""
    core, wake = way.core("abc", on_gap="bridge"), threading.Event()
    cameras = {name: Camera(name) for name in "abc"}
    captures = {name: Capture(camera) for name, camera in cameras.items()}
    for name, capture in captures.items():
        cameras[name].open()
        capture.begin(core.prepare, capacity=10, lossless=False, wake=wake)
    groups = 0
    while not all(capture.finished for capture in captures.values()):
        for name, capture in captures.items():
            capture.arrivals()
            capture.limit(core.lane(name).room_for)
            while item := capture.pop():
                for group in core.feed(item.prepared):
                    assert_holds(core, group, [frame(number, stream=name) for number in group.frame_ids])
                    groups += 1
        time.sleep(0.02)
    assert [capture.error for capture in captures.values()] == [None] * 3
    assert groups >= 3


def test_a_wrong_picture_is_refused(way):
    prepare = way.preparing.preparer(Preprocessor((32, 48), SIZE))
    with pytest.raises(ValueError, match=r"picture of shape \(16, 24, 3\)"):
        prepare(frame(0, (16, 24)))
    with pytest.raises(ValueError, match=r"picture of shape \(32, 48, 4\)"):
        prepare(replace(frame(0), picture=np.zeros((32, 48, 4), np.uint8)))
    with pytest.raises(TypeError, match="float32"):
        prepare(replace(frame(0), picture=frame(0).image.astype(np.float32)))


def test_while_paused_no_camera_starts_work_on_the_device():
    guarded, items = [], []

    class WatchedLink(ThreadLink):
        def stage(self, size):
            guarded.append(preparing.paused().locked())
            return super().stage(size)

        def run(self, staged, work):
            guarded.append(preparing.paused().locked())
            return super().run(staged, work)

    preparing = Preparing(WatchedLink)
    core = IngestCore(TINY, {"a": StreamOptions(size=SIZE)}, preparing=preparing)
    core.prepare(frame(0))
    camera = threading.Thread(target=lambda: items.append(core.prepare(frame(1))))
    with preparing.paused():
        camera.start()
        camera.join(0.2)
        assert camera.is_alive()
        assert guarded == [True, True]
    camera.join(60)
    assert guarded == [True] * 4
    assert len(items) == 1


def test_cameras_are_paused_in_an_encoders_first_step_alone(monkeypatch):
    """There an engine captures its graph."""
    preparing, paused, make = Preparing(ThreadLink), [], TINY.stream

    def watched(**options):
        encoder = make(**options)
        step = encoder.step
        encoder.step = lambda *args: paused.append(preparing.paused().locked()) or step(*args)
        return encoder

    tokenizer = Tokenizer(SLIM)
    monkeypatch.setattr(tokenizer, "stream", watched)
    core = IngestCore(tokenizer, {"a": StreamOptions(size=None)}, preparing=preparing)
    for number in range(9):
        core.feed(frame(number, (32, 48) if number < 5 else (40, 32)))
    assert paused == [True, False, True]
    core.open("a", (48, 48))
    core.warm_up("a")
    assert paused[3:] == [True]
    core.feed(frame(20, (48, 48)))
    assert paused[4:] == [False]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kernel", [True, False])
def test_gpu_memory_is_flat(kernel):
    if kernel:
        pytest.importorskip("cupy", reason="preparing on the GPU needs cupy")
    preparing = Preparing(lambda: CudaLink(torch.device("cuda", 0)), preprocess.load_kernel if kernel else None)
    core = IngestCore(TINY.cast(device="cuda"), {"a": StreamOptions(size=SIZE)}, preparing=preparing)
    held = []
    for number in range(400):
        core.feed(frame(number))
        held.append((torch.cuda.memory_allocated(), torch.cuda.memory_reserved()))
    assert max(held[200:]) <= max(held[:200])
