"""Golden tokens of the shipped weights for a computed clip; builds and devices are tested against them."""

from pathlib import Path

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from streamtok.model import Tokenizer

FILE = "golden.safetensors"


def reference_clip(frames: int = 9, height: int = 64, width: int = 96, start: int = 0) -> Tensor:
    """Drifting triangle waves and a moving square, drawn in integer arithmetic: (1, 3, T, H, W) uint8.

    `start` is the number of its first frame.
    """
    t = start + torch.arange(frames).view(1, -1, 1, 1)
    y, x = torch.arange(height).view(1, 1, -1, 1), torch.arange(width).view(1, 1, 1, -1)
    colour = torch.arange(3).view(-1, 1, 1, 1)
    wave = ((x * (2 + colour) + y * 3 + t * 4) % 128 - 64).abs() * 2
    slope = (y * 2 + x) % 256 // 2
    square = (x - 20 - 3 * t).abs().maximum((y - 30).abs()) < 12
    values = torch.where(square, 200 - 60 * colour, (wave + slope) // 2 + 16 * colour)
    return values.clamp(0, 255).to(torch.uint8)[None]


def golden_tokens(tokenizer: Tokenizer) -> dict[str, Tensor]:
    """`indices` (1, T', h, w), `latent` float32 (1, C, T', h, w) of the reference clip; ValueError if continuous."""
    out = tokenizer.encode(reference_clip())
    if out.indices is None:
        raise ValueError(f"{tokenizer.config.name!r} is continuous, golden tokens need a discrete tokenizer")
    return {"indices": out.indices, "latent": out.latent}


def write_golden(tokenizer: Tokenizer, folder: Path) -> None:
    """Write golden.safetensors beside the weights."""
    tokens = {name: value.contiguous() for name, value in golden_tokens(tokenizer).items()}
    (folder / FILE).write_bytes(to_safetensors(tokens))
