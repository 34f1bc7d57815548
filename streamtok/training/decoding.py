"""Decodes one file to train on, once, at every size that is stored of it."""

import logging
from collections import Counter
from dataclasses import dataclass

import cv2
import numpy as np

from streamtok.model.frames import check_channels
from streamtok.training.config import DataConfig
from streamtok.training.footage import Footage

log = logging.getLogger("streamtok.training")


def sizes_for(height: int, width: int, scales: tuple[int, ...], smallest: int) -> list[tuple[int, int]]:
    """The (height, width) at which to store a clip: no scale above its own short side, and none below `smallest`.

    A source too small for all of them is stored once, enlarged if needed so that a crop fits.
    """
    short = min(height, width)
    wanted = sorted({s for s in scales if smallest <= s <= short}) or [max(smallest, min(short, min(scales)))]
    return [(max(s, round(height * s / short)), max(s, round(width * s / short))) for s in wanted]


@dataclass(frozen=True)
class DecodedClip:
    """One clip at each size, (T, H, W, C) uint8, with the lengths of its runs of consecutive frames.

    `damaged` counts frames that were left out.
    """

    sizes: list[np.ndarray]
    runs: tuple[int, ...]
    damaged: int = 0


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
