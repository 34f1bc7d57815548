"""Decodes the token grids of one stream to pictures, group by group; all commands that decode use it.

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
    """Decodes the grids of one stream in order, beginning with a keyframe, in constant memory.

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
        """As `frames`, but uint8 (T, H, W, C), RGB unless the model has other channels."""
        return to_uint8(self.frames(tokens, keyframe))

    def frames(self, tokens: np.ndarray | Tensor, keyframe: bool) -> Tensor:
        """One grid ([channels,] h, w), or a tensor ([channels,] 1, h, w) -> float (3, T, H, W) in [-1, 1], unclipped.

        T is 1 at a keyframe, else G. Raises NonFiniteError if the decoder's output is not finite.
        """
        if isinstance(tokens, np.ndarray):
            tokens = torch.from_numpy(tokens.astype(np.int32 if self.tokenizer.config.discrete else np.float32))
        height, width = tokens.shape[-2:]
        if self._stream is None or self._stream.size != (height, width):
            self._stream = self.tokenizer.decode_stream(1, height, width, self.context, self._dtype, self._device)
        frames = self._stream.step(tokens[None], keyframe=[keyframe])[0]
        return frames[:, -1:] if keyframe else frames


def to_uint8(frames: Tensor) -> np.ndarray:
    """Decoded frames, float (C, T, H, W) in [-1, 1] scale -> clipped uint8 (T, H, W, C); grey ones become RGB."""
    frames = frames.expand(3, -1, -1, -1) if len(frames) == 1 else frames
    pixels = frames.float().clamp(-1, 1).add_(1).mul_(127.5).round_().byte()
    return torch.stack(pixels.unbind(), -1).cpu().numpy()  # half the time of a permuted copy


def crop(image: np.ndarray, rect: Sequence[int] | None) -> np.ndarray:
    """Cut the padding off an image (..., H, W, 3): `rect` is the source's (top, left, h, w), or None for all."""
    if rect is None:
        return image
    top, left, height, width = rect
    return image[..., top : top + height, left : left + width, :]
