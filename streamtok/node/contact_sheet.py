"""Draws what a tokenizer does: pictures side by side, and a contact sheet of camera images, tokens and decoded ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from streamtok.io.images.stills import caption, write_png

COLUMNS = 5


@dataclass(frozen=True)
class Moment:
    """One moment of a stream: `original` and `decoded` uint8 RGB (h, w, 3), and `tokens`, the grid of its group."""

    frame_id: int
    original: np.ndarray
    tokens: np.ndarray
    decoded: np.ndarray


def side_by_side(original: np.ndarray, decoded: np.ndarray, raw_bits: float, token_bits: float) -> np.ndarray:
    """Draw two pictures, uint8 RGB (h, w, 3), side by side, each under its bits per second; cropped to even sides.

    The camera's is on the left, the one decoded from tokens on the right.
    """
    width = original.shape[1]
    left = np.vstack([caption(f"camera: {raw_bits / 1e6:.1f} Mbit/s", width), original])
    right = np.vstack([caption(f"decoded from tokens: {token_bits / 1e6:.2f} Mbit/s", width), decoded])
    image = np.hstack([left, right])
    return np.ascontiguousarray(image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2])


def draw_tokens(tokens: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Draw a grid in colours, uint8 RGB of `size` (h, w), with a block per token; similar tokens look alike.

    Colours are the first three base-8 digits of an index (the first three FSQ dimensions), or three latent channels.
    """
    if tokens.ndim == 3 and tokens.dtype == np.float16:
        planes = tokens[:3].astype(np.float32)
        low, high = planes.min((1, 2), keepdims=True), planes.max((1, 2), keepdims=True)
        levels = 255 * (planes - low) / np.maximum(high - low, 1e-6)
    else:
        grid = (tokens[0] if tokens.ndim == 3 else tokens).astype(np.int64)
        levels = np.stack([grid // 8**digit % 8 for digit in range(3)]) * 255 / 7
    image = np.ascontiguousarray(levels.transpose(1, 2, 0)).astype(np.uint8)
    if image.shape[2] < 3:
        image = np.repeat(image[..., :1], 3, 2)
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_NEAREST)


def write_contact_sheet(path: Path, moments: Sequence[Moment]) -> None:
    """Write a PNG of evenly spread moments, a column for each: the camera's frame, its tokens, the decoded picture."""
    columns = []
    for index in np.linspace(0, len(moments) - 1, min(COLUMNS, len(moments))).round().astype(int):
        moment = moments[index]
        height, width = moment.original.shape[:2]
        rows = "h, w = " + "x".join(map(str, moment.tokens.shape))
        parts = [
            caption(f"frame {moment.frame_id}", width),
            moment.original,
            caption(f"tokens ({rows})", width),
            draw_tokens(moment.tokens, (height, width)),
            caption("decoded", width),
            moment.decoded,
        ]
        columns.append(np.pad(np.vstack(parts), ((0, 0), (0, 4), (0, 0))))
    write_png(path, np.hstack(columns))
