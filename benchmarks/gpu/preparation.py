"""Checks and times the preparation of frames for a device by `IngestCore`: every encoding must give the CPU's bytes."""

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from streamtok.bench.timing import percentiles
from streamtok.config import PRESETS
from streamtok.ingest.core import IngestCore, StreamOptions
from streamtok.ingest.preparing import CudaLink, Preparing, preparing_for
from streamtok.model import build
from streamtok.preprocessing.pixels import PIXEL_BYTES, RawImage
from streamtok.preprocessing.preprocessor import Preprocessor
from streamtok.types import Frame

Case = tuple[tuple[int, int], tuple[int, int]]  # (height, width) of the source, and as encoded
AHEAD = 10  # queue length in frames, as in a node at G = 4
KINDS = ("rgb8", "mono8", "yuyv", "nv12", "i420", "bayer_rggb8")  # one for each variant of the kernel
CASES: tuple[Case, ...] = (((720, 1280), (256, 448)), ((1080, 1920), (720, 1280)))


def raw_frames(encoding: str, size: tuple[int, int], count: int) -> list[Frame]:
    """Make `count` different frames of noise."""
    rows = size[0] * 3 // 2 if encoding in ("nv12", "i420") else size[0]
    noise = np.random.default_rng(0).integers(0, 256, rows * size[1] * PIXEL_BYTES[encoding], np.uint8)
    images = (RawImage(np.roll(noise, 7 * number), encoding, *size) for number in range(count))
    return [Frame("cam0", number, number + 1, image) for number, image in enumerate(images)]


def check_preparation(
    device: str = "cuda", cases: tuple[Case, ...] = CASES, encodings: tuple[str, ...] = KINDS, count: int = 21
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Check and time each way to prepare on `device`, for each encoding and each pair of sizes (source, encoded).

    "ok" says whether the bytes are the CPU's. "host" has milliseconds of the camera's thread, "there_ms" the median
    until a frame is in the group's buffer.
    """
    target = torch.device(device, 0) if device == "cuda" else torch.device(device)
    tok = build(PRESETS["nano"]).cast(device=target)
    ways = {"chosen": preparing_for(target), "on the CPU": Preparing()}
    if device == "cuda":
        ways["uploaded"] = Preparing(lambda: CudaLink(target))
    yield "kernels", {"built": ways["chosen"].on_device}
    for source, size in cases:
        for encoding in encodings:
            frames = raw_frames(encoding, source, count)
            wanted = [Preprocessor(source, size)(frame.image) for frame in frames]
            for way, preparing in ways.items():
                core = IngestCore(tok, {"cam0": StreamOptions("lossless", size=size)}, preparing=preparing)
                entry = {"ok": has_bytes(core, frames, wanted)} | time_frames(core, frames)
                yield f"{source[0]}x{source[1]} {encoding} to {size[0]}x{size[1]}, {way}", entry


def has_bytes(core: IngestCore, frames: list[Frame], wanted: list[np.ndarray]) -> bool:
    """Whether every group's buffer holds its frames as `wanted`, uint8 (3, H, W) each; some are prepared ahead."""
    waiting, same, seen = [], True, 0
    for frame in [*frames, *[None] * AHEAD]:
        if frame is not None:
            waiting.append(core.prepare(frame))
        if frame is not None and len(waiting) < AHEAD:
            continue
        for group in core.feed(waiting.pop(0)) if waiting else []:
            buffer = core.buffer(group.stream).cpu().numpy()
            pairs = enumerate(group.frame_ids)
            same &= all(np.array_equal(buffer[:, index], wanted[frame_id]) for index, frame_id in pairs)
            seen += len(group.frame_ids)
    return same and seen == len(frames)


def time_frames(core: IngestCore, frames: list[Frame]) -> dict[str, Any]:
    """Time `prepare` on the host, and the way into the buffer, in ms; conversions are not cached."""
    target = core.buffer("cam0")[:, 0]
    host, there = [], []
    for frame in frames:
        begin = time.perf_counter()
        prepared = core.prepare(replace(frame))
        host.append(1000 * (time.perf_counter() - begin))
        prepared.planes.copy_to(target)
        if target.is_cuda:
            torch.cuda.synchronize(target.device)
        there.append(1000 * (time.perf_counter() - begin))
    return {"host": percentiles(host), "there_ms": statistics.median(there)}
