"""The token grid of a group: its type, its shape, and where it comes from in a step's output."""

import numpy as np
import torch

from streamtok.config import TokenizerConfig
from streamtok.model import Encoded


def dtype_of(config: TokenizerConfig) -> str:
    """The type that a model's tokens are sent in: "uint16", "uint32" (above 65,536 codes) or "float16" (continuous)."""
    if config.codebook_size is None:
        return "float16"
    return "uint16" if config.codebook_size <= 65536 else "uint32"


def levels_of(config: TokenizerConfig) -> list[int]:
    """Factors of the codebook, as headers carry them; empty for continuous models."""
    if config.codebook_size is None:
        return []
    return list(config.levels) if config.quantizer in ("fsq", "residual_fsq") else [config.codebook_size]


def grid_shape(config: TokenizerConfig, height: int, width: int) -> tuple[int, ...]:
    """Shape of one group's tokens for (height, width) images: (h, w), (Q, h, w) or (C, h, w)."""
    grid = tuple(config.grid(height, width))
    if not config.discrete:
        return config.latent_channels, *grid
    return (config.num_quantizers, *grid) if config.quantizer == "residual_fsq" else grid


def grids_of(out: Encoded, config: TokenizerConfig) -> np.ndarray:
    """The token grids of a step's output, (slots, *grid_shape) in the type of `dtype_of`, on the host."""
    if out.indices is None:
        return out.latent[:, :, 0].to(torch.float16).cpu().numpy()
    return out.indices.select(-3, 0).cpu().numpy().astype(dtype_of(config))
