"""Token grids back to pictures, one group at a time, wherever that is done.

decoder = GridDecoder(streamtok.load("nano"))
for group in file:  # a TokenFile
    pictures = crop(decoder.step(group.tokens, group.keyframe), file.meta["source_rect"])
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class GridDecoder:
    """Decodes the grids of one stream in order, the first of them a keyframe; memory does not grow.

    `options` are those of `Tokenizer.decode_stream`: context, dtype, device. A grid of another size starts afresh.
    """

    def __init__(self, tokenizer: Any, **options: Any) -> None:
        self.tokenizer, self.options = tokenizer, options
        self._stream: Any = None

    def step(self, tokens: np.ndarray | Tensor, keyframe: bool) -> np.ndarray:
        """As `frames`, as uint8 RGB (T, H, W, 3)."""
        return to_uint8(self.frames(tokens, keyframe))

    def frames(self, tokens: np.ndarray | Tensor, keyframe: bool) -> Tensor:
        """One grid ([channels,] h, w), or a tensor ([channels,] 1, h, w) -> float (3, T, H, W) in [-1, 1], unclipped.

        T is 1 at a keyframe, else a group's frames. Raises NonFiniteError where the decoder's output is not finite.
        """
        if isinstance(tokens, np.ndarray):
            tokens = torch.from_numpy(tokens.astype(np.int32 if self.tokenizer.config.discrete else np.float32))
        size = tuple(tokens.shape[-2:])
        if self._stream is None or self._stream.size != size:
            self._stream = self.tokenizer.decode_stream(1, *size, **self.options)
        frames = self._stream.step(tokens[None], keyframe=[keyframe])[0]
        return frames[:, -1:] if keyframe else frames


def to_uint8(frames: Tensor) -> np.ndarray:
    """Decoded frames, float (3, T, H, W) in [-1, 1], clipped here -> uint8 RGB (T, H, W, 3)."""
    pixels = frames.float().clamp(-1, 1).add(1).mul(127.5).round().byte()
    return pixels.permute(1, 2, 3, 0).contiguous().cpu().numpy()


def crop(image: np.ndarray, rect: Sequence[int] | None) -> np.ndarray:
    """The part of (..., H, W, 3) that shows the source, without padding: `rect` is (top, left, h, w) or None."""
    if rect is None:
        return image
    top, left, height, width = rect
    return image[..., top : top + height, left : left + width, :]
