"""Drop-in inference classes of NVIDIA's Cosmos-Tokenizer and cosmos-predict1: same arguments, layouts and results.

    from streamtok.compat.cosmos import CausalVideoTokenizer      # for cosmos_tokenizer.video_lib's

Tokens and latents are those of their code, in float32 within rounding. No code of a checkpoint file is run.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from streamtok.checkpoint import from_cosmos, load_checkpoint
from streamtok.config import TokenizerConfig
from streamtok.engine.loading import pick_device
from streamtok.model import Tokenizer

SPACE, TIME = 16, 8  # as their code, pad sides to multiples of 16 and windows to 1 + 8k frames for every model


class _CosmosTokenizer(nn.Module):
    """Base of both classes. Tensors are float in [-1, 1], arrays uint8 with colours last."""

    video: bool

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        checkpoint_enc: str | Path | None = None,
        checkpoint_dec: str | Path | None = None,
        tokenizer_config: Mapping[str, Any] | TokenizerConfig | None = None,
        device: str = "cuda",
        dtype: str = "bfloat16",
    ) -> None:
        """Load `checkpoint`, or an encoder, a decoder or both; without one, its direction raises ValueError.

        Args:
            checkpoint: `autoencoder.jit`, or what `streamtok.load` takes (a folder, a preset).
            checkpoint_enc: `encoder.jit` or `iter_N_enc.jit`.
            checkpoint_dec: `decoder.jit` or `iter_N_dec.jit`.
            tokenizer_config: their keyword dictionary; None infers it from the folder's name and the tensors' shapes.
            device: of the computation, by torch's name.
            dtype: of the computation, by torch's name.
        """
        super().__init__()
        files = [file for file in (checkpoint, checkpoint_enc, checkpoint_dec) if file is not None]
        if not files:
            raise ValueError("no checkpoint is given: pass checkpoint, checkpoint_enc or checkpoint_dec")
        if tokenizer_config is None and checkpoint is not None and not Path(checkpoint).is_file():
            loaded = load_checkpoint(checkpoint)
        else:
            loaded = from_cosmos(files, tokenizer_config)
        if loaded.config.video != self.video:
            raise ValueError(f"{files[0]} holds {loaded.config.name!r}, which is no model of a {type(self).__name__}")
        kind = getattr(torch, dtype, None)
        if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
            raise ValueError(f"dtype is {dtype!r}, expected bfloat16, float16 or float32")
        self.tokenizer: Tokenizer = loaded.cast(kind, pick_device(device))

    @torch.no_grad()
    def encode(self, input_tensor: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, [T,] H, W) -> (indices int32, codes) for a discrete model, (latent,) for a continuous one."""
        out = self.tokenizer.encode(input_tensor, context="all")
        if out.indices is None:
            return (out.latent.to(self.tokenizer.dtype),)
        return out.indices, self.tokenizer.codes(out.indices)

    @torch.no_grad()
    def decode(self, input_latent: Tensor) -> Tensor:
        """Indices (B, [T',] h, w), or a latent (B, C, [T',] h, w), -> (B, 3, [T,] H, W), unclipped."""
        return self.tokenizer.decode(input_latent, context="all").to(self.tokenizer.dtype)

    def autoencode(self, input_tensor: Tensor) -> Tensor:
        """Encode and decode frames (B, 3, [T,] H, W) -> same."""
        return self.decode(self.encode(input_tensor)[0])

    def _reconstruct(self, frames: np.ndarray) -> np.ndarray:
        """Encode and decode uint8 (B, ..., H, W, 3), of a size and length that fit the model -> same."""
        out = self.autoencode(torch.from_numpy(np.ascontiguousarray(np.moveaxis(frames, -1, 1))))
        unit = out.float().add(1).div(2).clamp(0, 1).mul(255).add(0.5).to(torch.uint8)
        return np.moveaxis(unit.cpu().numpy(), 1, -1)


class CausalVideoTokenizer(_CosmosTokenizer):
    """Their video tokenizer: `encode`, `decode`, `autoencode`; a call reconstructs an array."""

    video = True

    def forward(self, video: np.ndarray, temporal_window: int | None = 17) -> np.ndarray:
        """Reconstruct uint8 (B, T, H, W, 3) of any size and length.

        It does so in independent windows, padded as theirs. With `temporal_window` None the video is one clip with
        continuous state: no seams between windows, and fewer tokens.
        """
        check_pictures(video, 5, "(B, T, H, W, 3)")
        window = temporal_window or video.shape[1]
        parts = (video[:, first : first + window] for first in range(0, video.shape[1], window))
        return np.concatenate([self._reconstruct_window(part, centred=bool(temporal_window)) for part in parts], 1)

    def _reconstruct_window(self, video: np.ndarray, centred: bool) -> np.ndarray:
        """uint8 (B, T, H, W, 3) of any size -> same; if `centred`, half of the padding frames come first."""
        frames = video.shape[1]
        more = -(frames - 1) % (TIME if centred else self.tokenizer.group)
        before = more // 2 if centred else 0
        padded, (top, left) = pad_sides(video)
        padded = np.pad(padded, ((0, 0), (before, more - before), (0, 0), (0, 0), (0, 0)), mode="edge")
        out = self._reconstruct(padded)[:, before : before + frames]
        return out[:, :, top : top + video.shape[2], left : left + video.shape[3]]


class ImageTokenizer(_CosmosTokenizer):
    """Their image tokenizer: `encode`, `decode`, `autoencode`; a call reconstructs an array."""

    video = False

    def forward(self, image: np.ndarray) -> np.ndarray:
        """Reconstruct uint8 (B, H, W, 3) of any size."""
        check_pictures(image, 4, "(B, H, W, 3)")
        padded, (top, left) = pad_sides(image)
        return self._reconstruct(padded)[:, top : top + image.shape[1], left : left + image.shape[2]]


def check_pictures(pictures: np.ndarray, axes: int, shape: str) -> None:
    """TypeError or ValueError unless pictures are uint8 (..., 3) of so many axes; `shape` is for the message."""
    if not isinstance(pictures, np.ndarray) or pictures.dtype != np.uint8:
        found = pictures.dtype if isinstance(pictures, np.ndarray) else type(pictures).__name__
        raise TypeError(f"pictures are {found}, expected a uint8 numpy array {shape}; tensors go to `autoencode`")
    if pictures.ndim != axes or pictures.shape[-1] != 3 or 0 in pictures.shape:
        raise ValueError(f"pictures have shape {pictures.shape}, expected {shape}")


def pad_sides(pictures: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Centre pictures (..., H, W, 3) on black, with sides of multiples of 16; also returns their (top, left)."""
    height, width = (-side % SPACE for side in pictures.shape[-3:-1])
    sides = ((height // 2, height - height // 2), (width // 2, width - width // 2), (0, 0))
    padded = np.pad(pictures, ((0, 0),) * (pictures.ndim - 3) + sides)
    return padded, (height // 2, width // 2)
