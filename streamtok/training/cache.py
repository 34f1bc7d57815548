"""Decodes all clips once into one uint8 tensor on the training device, so that the loop never waits for a decoder.

A clip is a video or a single image, stored at several sizes; `batches` cuts crops out of it by index.
"""

import logging
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from streamtok.cores import count_cores
from streamtok.model.frames import check_channels, picture_channels
from streamtok.settings.errors import SettingsError
from streamtok.training.config import DataConfig
from streamtok.training.footage import WHOLE, Footage, survey

log = logging.getLogger("streamtok.training")


@dataclass(frozen=True)
class Stored:
    """One clip at one size: (frames, height, width) pixels from row `offset` of the cache on.

    `runs` are the lengths of its runs of consecutive frames; they add up to `frames`.
    """

    clip: int
    offset: int
    frames: int
    height: int
    width: int
    runs: tuple[int, ...]

    @property
    def short_side(self) -> int:
        """The smaller of height and width."""
        return min(self.height, self.width)


@dataclass(frozen=True)
class Cache:
    """All pixels (N, C) uint8, RGB for C 3, the table of the clips stored in them, and the clips' names."""

    pixels: Tensor
    stored: tuple[Stored, ...]
    names: tuple[str, ...]

    @property
    def frames(self) -> int:
        """How many frames there are, each counted once whatever the number of sizes."""
        return sum(next(s.frames for s in self.stored if s.clip == i) for i in range(len(self.names)))

    def clip(self, name: str, lines: int) -> Tensor:
        """The whole clip `name` at the stored size nearest to `lines` -> (T, C, H, W) uint8."""
        index = self.names.index(name)
        best = min((s for s in self.stored if s.clip == index), key=lambda s: abs(s.short_side - lines))
        size = best.frames * best.height * best.width
        pixels = self.pixels[best.offset : best.offset + size]
        return pixels.view(best.frames, best.height, best.width, -1).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class DecodedClip:
    """One clip at each size, (T, H, W, C) uint8, with the lengths of its runs of consecutive frames.

    `damaged` counts frames that were left out.
    """

    sizes: list[np.ndarray]
    runs: tuple[int, ...]
    damaged: int = 0


def load_cache(
    paths: list[str],
    config: DataConfig,
    smallest: int,
    device: torch.device,
    part: tuple[float, float] = WHOLE,
    *,
    channels: int = 3,
) -> Cache:
    """Decode `paths` in parallel into a Cache on `device`; a damaged file is logged and skipped.

    `smallest` is the largest crop. `part` is the interval of each video to take, as fractions. `channels` are the
    model's: files with others are skipped too. SettingsError if the frames would not fit into memory, ValueError if no
    file could be read.
    """
    with ThreadPoolExecutor(config.threads or count_cores()) as pool:
        files = list(pool.map(lambda path: survey(path, config.max_frames, config.stretch, part), paths))
        _check_memory(files, config, smallest, device, channels)
        clips = list(pool.map(lambda file: decode_clip(file, config, smallest, channels), files))
    names: list[str] = []
    stored: list[Stored] = []
    offset = 0
    for path, clip in zip(paths, clips, strict=True):
        if not clip.runs:
            continue
        for frames, height, width, _ in (array.shape for array in clip.sizes):
            stored.append(Stored(len(names), offset, frames, height, width, clip.runs))
            offset += frames * height * width
        names.append(path if path.startswith("synthetic:") else Path(path).stem)
    if not names:
        raise ValueError(
            f"none of the {len(paths)} files can be used: they are damaged, or of other channels than the model's"
        )
    cache = Cache(_join_pixels(clips, (offset, picture_channels(channels)), device), tuple(stored), tuple(names))
    there, damaged = max(cache.frames, sum(file.frames for file in files)), sum(clip.damaged for clip in clips)
    counts = len(names), len(stored), cache.frames, there, damaged, cache.pixels.numel()
    log.info("event=cache clips=%d sizes=%d frames=%d of=%d damaged=%d bytes=%d", *counts)
    return cache


def _join_pixels(clips: list[DecodedClip], shape: tuple[int, int], device: torch.device) -> Tensor:
    """All pixels in order, (N, C) = `shape`; each array is freed once it is copied, so that little is held twice."""
    pixels = torch.empty(shape, dtype=torch.uint8, device=device)
    offset = 0
    for clip in clips:
        while clip.sizes:
            part = torch.from_numpy(clip.sizes.pop(0).reshape(-1, shape[1]))
            pixels[offset : offset + len(part)] = part.to(device)
            offset += len(part)
    return pixels


def _check_memory(files: list[Footage], config: DataConfig, smallest: int, device: torch.device, channels: int) -> None:
    """SettingsError if the decoded files would not fit into the free memory of `device` or of the host."""
    pixels, free = sum(_count_pixels(file, config, smallest) for file in files), free_memory(device)
    needed = pixels * picture_channels(channels)
    log.info("event=decoding files=%d bytes=%d free=%d", len(files), needed, free)
    if needed > free:
        raise SettingsError(
            f"the frames of {len(files)} files need {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} are free: "
            f"lower data.max_frames ({config.max_frames} of each video), or give fewer data.scales "
            f"({', '.join(map(str, sorted(set(config.scales))))}) or fewer files"
        )


def _count_pixels(file: Footage, config: DataConfig, smallest: int) -> int:
    """Pixels of one file's frames at every size; 0 if it cannot be opened."""
    if file.size is None:
        return 0
    pixels = sum(height * width for height, width in sizes_for(*file.size, config.scales, smallest))
    return pixels * min(file.taken, file.frames or file.taken)


def free_memory(device: torch.device) -> int:
    """Bytes that a cache on `device` may take: free both there and on the host, where it is decoded."""
    try:
        facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        host = 1024 * int(facts["MemAvailable"].split()[0])
    except (OSError, KeyError):  # no Linux
        host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(host, torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else host


def sizes_for(height: int, width: int, scales: tuple[int, ...], smallest: int) -> list[tuple[int, int]]:
    """The (height, width) at which to store a clip: no scale above its own short side, and none below `smallest`.

    A source too small for all of them is stored once, enlarged if needed so that a crop fits.
    """
    short = min(height, width)
    wanted = sorted({s for s in scales if smallest <= s <= short}) or [max(smallest, min(short, min(scales)))]
    return [(max(s, round(height * s / short)), max(s, round(width * s / short))) for s in wanted]


def decode_clip(file: Footage, config: DataConfig, smallest: int, channels: int) -> DecodedClip:
    """Decode a clip at every size; it has no runs if no frame can be decoded, or if it has other channels."""
    arrays: list[np.ndarray] = []
    runs: Counter[int] = Counter()
    left_out: Counter[str] = Counter()
    count = 0
    try:
        for run, frame in file.read(left_out):
            if not arrays:
                shape = frame.shape
                check_channels(shape[2], channels)
                sizes = sizes_for(shape[0], shape[1], config.scales, smallest)
                arrays = [np.empty((file.taken, *size, shape[2]), np.uint8) for size in sizes]  # free until touched
            if frame.shape != shape:
                log.warning("event=size_changed file=%s kept=%d", file.path, count)
                break
            for array in arrays:
                array[count] = _resize(frame, array.shape[1], array.shape[2])
            runs[run] += 1
            count += 1
    except ValueError as error:
        log.warning("event=damaged_file file=%s kept=%d reason=%r", file.path, count, str(error))
    if left_out["damaged"]:
        log.warning("event=damaged_frames file=%s left_out=%d kept=%d", file.path, left_out["damaged"], count)
    if file.frames > file.taken or (not file.frames and count == file.taken):
        there = file.frames or "unknown"
        log.warning("event=shortened file=%s frames=%d of=%s stretches=%d", file.path, count, there, len(runs))
    return DecodedClip([array[:count] for array in arrays], tuple(runs.values()), left_out["damaged"])


def _resize(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a frame (H, W, C), channel by channel if there are more than the four that OpenCV takes."""
    if frame.shape[:2] == (height, width):
        return frame
    method = cv2.INTER_AREA if height <= frame.shape[0] else cv2.INTER_CUBIC
    if frame.shape[2] <= 4:
        return cv2.resize(frame, (width, height), interpolation=method)
    return np.stack([cv2.resize(plane, (width, height), interpolation=method) for plane in np.moveaxis(frame, 2, 0)], 2)
