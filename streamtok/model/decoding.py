"""Token grids back to pictures, one group at a time, wherever that is done.

decoder = GridDecoder(streamtok.load("nano"))
for group in file:  # a TokenFile
    pictures = crop(decoder.step(group.tokens, group.keyframe), file.meta["source_rect"])
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from streamtok.model.decode_stream import DecodeStream
from streamtok.model.tokenizer import Context, Tokenizer


class GridDecoder:
    """Decodes the grids of one stream in order, the first of them a keyframe; memory does not grow.

    `context`, `dtype` and `device` are those of `Tokenizer.decode_stream`. A grid of another size starts afresh.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        context: Context = "model",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.tokenizer, self.context = tokenizer, context
        self._dtype, self._device = dtype, device
        self._stream: DecodeStream | None = None

    def step(self, tokens: np.ndarray | Tensor, keyframe: bool) -> np.ndarray:
        """As `frames`, as uint8 RGB (T, H, W, 3), or of the channels of the model."""
        return to_uint8(self.frames(tokens, keyframe))

    def frames(self, tokens: np.ndarray | Tensor, keyframe: bool) -> Tensor:
        """One grid ([channels,] h, w), or a tensor ([channels,] 1, h, w) -> float (3, T, H, W) in [-1, 1], unclipped.

        T is 1 at a keyframe, else a group's frames. Raises NonFiniteError where the decoder's output is not finite.
        """
        if isinstance(tokens, np.ndarray):
            tokens = torch.from_numpy(tokens.astype(np.int32 if self.tokenizer.config.discrete else np.float32))
        height, width = tokens.shape[-2:]
        if self._stream is None or self._stream.size != (height, width):
            self._stream = self.tokenizer.decode_stream(1, height, width, self.context, self._dtype, self._device)
        frames = self._stream.step(tokens[None], keyframe=[keyframe])[0]
        return frames[:, -1:] if keyframe else frames


def to_uint8(frames: Tensor) -> np.ndarray:
    """Decoded frames, float (C, T, H, W) in [-1, 1], clipped here -> uint8 (T, H, W, C), grey ones as RGB."""
    frames = frames.expand(3, -1, -1, -1) if len(frames) == 1 else frames
    pixels = frames.float().clamp(-1, 1).add(1).mul(127.5).round().byte()
    return pixels.permute(1, 2, 3, 0).contiguous().cpu().numpy()


def crop(image: np.ndarray, rect: Sequence[int] | None) -> np.ndarray:
    """The part of (..., H, W, 3) that shows the source, without padding: `rect` is (top, left, h, w) or None."""
    if rect is None:
        return image
    top, left, height, width = rect
    return image[..., top : top + height, left : left + width, :]
