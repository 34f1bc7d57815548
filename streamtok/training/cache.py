"""Decodes all clips once into one uint8 tensor on the training device, so that the loop never waits for a decoder.

A clip is a video or a single image, stored at several sizes; `batches` cuts crops out of it by index.
"""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from streamtok.model.frames import picture_channels
from streamtok.settings.errors import SettingsError
from streamtok.training.config import DataConfig
from streamtok.training.decoding import DecodedClip, decode_clip, sizes_for
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
    with ThreadPoolExecutor(config.threads or os.cpu_count() or 1) as pool:
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
