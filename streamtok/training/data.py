"""Clips decoded once into one uint8 tensor on the training device, so that the loop never waits for a decoder.

A clip is a video or a single image; each is stored at several sizes, and `batches.py` cuts crops out of them by index.
"""

import importlib.util
import itertools
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from streamtok.command import SettingsError
from streamtok.io.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES, open_video, read_image
from streamtok.training.config import DataConfig

SUFFIXES = {*VIDEO_SUFFIXES, *IMAGE_SUFFIXES}
log = logging.getLogger("streamtok.training")


@dataclass(frozen=True)
class Stored:
    """One clip at one size: rows `offset` ... of the cache, as (frames, height, width) pixels."""

    clip: int
    offset: int
    frames: int
    height: int
    width: int


@dataclass(frozen=True)
class Cache:
    """pixels (N, 3) uint8 RGB, the table of what lies where, and the clips' names."""

    pixels: Tensor
    stored: tuple[Stored, ...]
    names: tuple[str, ...]

    @property
    def frames(self) -> int:
        """Distinct frames, each counted once whatever the number of sizes."""
        return sum(next(s.frames for s in self.stored if s.clip == i) for i in range(len(self.names)))

    def clip(self, name: str, lines: int) -> Tensor:
        """The whole clip `name` at the stored size nearest to `lines` -> (T, 3, H, W) uint8."""
        index = self.names.index(name)
        best = min((s for s in self.stored if s.clip == index), key=lambda s: abs(min(s.height, s.width) - lines))
        size = best.frames * best.height * best.width
        pixels = self.pixels[best.offset : best.offset + size]
        return pixels.view(best.frames, best.height, best.width, 3).permute(0, 3, 1, 2)


def list_media(paths: tuple[str, ...]) -> list[str]:
    """Every video and image file in `paths` (folders are searched), in name order; synthetic: specifications stay.

    SettingsError for a path that is not there, and where there is no such file at all.
    """
    found: list[str] = []
    for path in paths:
        if path.startswith("synthetic:"):
            found.append(path)
        elif Path(path).is_dir():
            inside = (p for p in sorted(Path(path).rglob("*")) if p.suffix.lower() in SUFFIXES)
            found += map(str, inside)
        elif Path(path).is_file():
            found.append(path)
        else:
            raise SettingsError(f"data path {path!r} is neither a folder nor a file; give folders of videos or images")
    if not found:
        raise SettingsError(f"no video or image in {list(paths)}; known endings: {', '.join(sorted(SUFFIXES))}")
    return found


def read_frames(path: str, max_frames: int) -> Iterator[np.ndarray]:
    """Frames of a video, image or synthetic: drive, each (H, W, 3) uint8 RGB.

    ValueError, which names the file, where it breaks off or holds no frame.
    """
    if path.startswith("synthetic:"):
        yield from _synthetic(path, max_frames)
    elif Path(path).suffix.lower() in IMAGE_SUFFIXES:
        yield read_image(path)
    else:
        yield from itertools.islice(open_video(path)[1], max_frames)


def _synthetic(spec: str, max_frames: int) -> Iterator[np.ndarray]:
    from streamtok.io.source import EndOfSource, open_source

    with open_source(spec, realtime=False, max_frames=max_frames) as source:
        while True:
            try:
                frame = source.read(None)
            except EndOfSource:
                return
            if frame is None:
                return
            yield frame.image


def sizes_for(height: int, width: int, scales: tuple[int, ...], smallest: int) -> list[tuple[int, int]]:
    """The (height, width) at which a clip is stored: no scale above its own short side, and none below `smallest`.

    A source too small for all of them is stored once, enlarged if need be so that a crop fits.
    """
    short = min(height, width)
    wanted = sorted({s for s in scales if smallest <= s <= short}) or [max(smallest, min(short, min(scales)))]
    return [(max(s, round(height * s / short)), max(s, round(width * s / short))) for s in wanted]


def _decode(path: str, config: DataConfig, smallest: int) -> list[np.ndarray]:
    """One clip at every size -> a list of (T, H, W, 3) uint8; empty when the file is damaged from its first frame."""
    import cv2

    sizes: list[tuple[int, int]] = []
    kept: list[list[np.ndarray]] = []
    try:
        for frame in read_frames(path, config.max_frames):
            if not sizes:
                shape = frame.shape
                sizes = sizes_for(shape[0], shape[1], config.scales, smallest)
                kept = [[] for _ in sizes]
            if frame.shape != shape:
                log.warning("event=size_changed file=%s kept=%d", path, len(kept[0]))
                break
            for frames, (h, w) in zip(kept, sizes, strict=True):
                method = cv2.INTER_AREA if h <= shape[0] else cv2.INTER_CUBIC
                frames.append(frame if (h, w) == shape[:2] else cv2.resize(frame, (w, h), interpolation=method))
    except ValueError as error:
        log.warning("event=damaged_file kept=%d reason=%s", len(kept[0]) if kept else 0, error)
    return [np.stack(frames) for frames in kept]


def load_cache(paths: list[str], config: DataConfig, smallest: int, device: torch.device) -> Cache:
    """Decode `paths` in parallel into a Cache on `device`; a damaged file is named and skipped.

    `smallest` is the largest crop. ValueError when nothing could be read.
    """
    if not importlib.util.find_spec("cv2"):
        raise ModuleNotFoundError("training data needs OpenCV for resizing: pip install opencv-python")
    workers = config.threads or os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        clips = list(pool.map(lambda path: _decode(path, config, smallest), paths))
    names: list[str] = []
    stored: list[Stored] = []
    offset = 0
    for path, sizes in zip(paths, clips, strict=True):
        if not sizes:
            continue
        for array in sizes:
            stored.append(Stored(len(names), offset, *array.shape[:3]))
            offset += array.size // 3
        names.append(path if path.startswith("synthetic:") else Path(path).stem)
    if not names:
        raise ValueError(f"none of the {len(paths)} files in the data folders could be decoded")
    pixels = torch.empty((offset, 3), dtype=torch.uint8, device=device)
    arrays = [array for sizes in clips for array in sizes]
    for place, array in zip(stored, arrays, strict=True):
        pixels[place.offset : place.offset + array.size // 3] = torch.from_numpy(array.reshape(-1, 3)).to(device)
    log.info("event=cache clips=%d sizes=%d bytes=%d", len(names), len(stored), pixels.numel())
    return Cache(pixels, tuple(stored), tuple(names))


def split_holdout(paths: list[str], holdout: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """(training paths, held-out paths); SettingsError for a name that fits no clip."""
    for name in holdout:
        if not any(Path(path).stem.startswith(name) for path in paths):
            known = ", ".join(sorted(Path(path).stem for path in paths)[:20])
            raise SettingsError(f"data.holdout {name!r} fits no clip; clips: {known}")
    held = [path for path in paths if Path(path).stem.startswith(holdout)] if holdout else []
    return [path for path in paths if path not in held], held
