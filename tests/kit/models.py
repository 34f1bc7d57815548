"""Tiny tokenizers of every kind, and helpers to run them step by step; needs what a machine with a GPU has."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

import streamtok.model
from streamtok.bench import clips
from streamtok.config import PRESETS, TokenizerConfig
from streamtok.model import Tokenizer
from streamtok.types import TokenGroup
from tests.kit.pictures import SIZE, image

_BASE = TokenizerConfig(
    name="tiny",
    stem_channels=8,
    encoder_channels=(8, 16, 16),
    decoder_channels=(8, 16, 16),
    encoder_blocks=(1, 1, 1),
    decoder_blocks=(1, 1, 1),
    z_channels=8,
)
SLIM = replace(
    PRESETS["nano"],
    stem_channels=8,
    encoder_channels=(8, 16),
    decoder_channels=(8, 16),
    encoder_blocks=(1, 1),
    decoder_blocks=(1, 1),
    z_channels=8,
)

VIDEO = replace(SLIM, name="tiny", context=4)
ATTENTION = replace(VIDEO, name="tiny-attention", mid=True, mid_attention=True, slim=False)
CONTINUOUS = replace(VIDEO, name="tiny-continuous", quantizer="ae", latent_channels=6)
IMAGE = replace(
    VIDEO, name="tiny-image", video=False, temporal_compression=1, slim=False, num_groups=8, attention_levels=()
)

CONFIGS = {
    "dv4x8x8": _BASE,
    "dv8x8x8": replace(_BASE, temporal_compression=8),
    "dv8x16x16": replace(_BASE, temporal_compression=8, spatial_compression=16),
    "dv8x8x8-legacy": replace(_BASE, temporal_compression=8, legacy_mode=True),
    "dv4x8x8-patch2": replace(_BASE, patch_size=2),
    "cv4x8x8": replace(_BASE, quantizer="ae", latent_channels=4, decoder_channels=(8, 16), decoder_blocks=(1, 1)),
    "cv4x8x8-vae": replace(_BASE, quantizer="vae", latent_channels=4, z_factor=2),
    "dv4x8x8-attention": replace(_BASE, attention_levels=(1,)),
    "slim": SLIM,
    "slim-p": replace(SLIM, predictive=True),
    "slim-r": replace(SLIM, refinement=64),
    "slim-pc": replace(SLIM, predictive=True, corrections=1),
    "slim-prc": replace(SLIM, predictive=True, refinement=64, corrections=2),
}
IMAGES = {
    "di8x8": replace(
        _BASE,
        video=False,
        temporal_compression=1,
        num_groups=8,
        stem_channels=16,
        encoder_channels=(16, 16, 32),
        decoder_channels=(16, 16, 32),
    ),
    "ci16x16": replace(
        _BASE,
        video=False,
        temporal_compression=1,
        spatial_compression=16,
        num_groups=8,
        stem_channels=16,
        encoder_channels=(16, 16, 32),
        decoder_channels=(16, 16, 32),
        quantizer="ae",
        latent_channels=4,
    ),
}


def build(config: TokenizerConfig, seed: int = 0) -> Tokenizer:
    """A deterministic tokenizer with seeded random weights."""
    torch.manual_seed(seed)
    return Tokenizer(config, deterministic=True)


def tiny(name: str, deterministic: bool = False, dtype: torch.dtype = torch.float64, **changes: object) -> Tokenizer:
    """A tokenizer with loud random weights, so that every tap and every key matters; float64 hides no off-by-one."""
    torch.manual_seed(1)
    config = replace((CONFIGS | IMAGES)[name], **changes)
    model = streamtok.model.build(config, deterministic).to(dtype)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    for table in model.buffers():  # of a refining model: codewords of every size, sizes that move little
        table.random_(-40, 40) if table.dtype == torch.int8 else table.random_(-2000, 2000)
    if config.corrections:
        torch.nn.init.normal_(model.corrector.change.weight)  # zeros, untrained
    model.encoder.conv_in.apply(lambda m: m.weight.data.mul_(4) if hasattr(m, "weight") else None)
    return model


def video(frames: int, height: int = 16, width: int = 32, batch: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random frames (B, 3, T, H, W) in [-1, 1]."""
    return torch.rand(batch, 3, frames, height, width, dtype=dtype) * 2 - 1


def encode_by_steps(model: Tokenizer, clip: Tensor, **kwargs: object):
    """Latent (B, C, T', h, w) and tokens of a clip, one group per step, the batch as slots."""
    stream = model.stream(slots=len(clip), height=clip.shape[-2], width=clip.shape[-1], **kwargs)
    return clips.encode_by_steps(stream, clip)


def decode_by_steps(model: Tokenizer, grids: Tensor, **kwargs: object) -> Tensor:
    """Frames (B, 3, T, H, W) of tokens, one grid per step."""
    stream = model.decode_stream(slots=len(grids), grid_height=grids.shape[-2], grid_width=grids.shape[-1], **kwargs)
    frames = [stream.step(grids[..., i : i + 1, :, :]) for i in range(grids.shape[-3])]
    return torch.cat([frames[0][:, :, -1:], *frames[1:]], 2)


def expected_tokens(tokenizer: Tokenizer, groups: list[TokenGroup], stream: str = "a") -> list[np.ndarray]:
    """What `tok.stream` makes of the frames that the groups name."""
    reference, grids = None, []
    for group in groups:
        frames = [image(number, stream=stream) for number in group.frame_ids]
        frames += frames[-1:] * group.repeated
        clip = torch.from_numpy(np.stack(frames).transpose(3, 0, 1, 2)[None].copy())
        if group.keyframe:
            reference = tokenizer.stream(slots=1, height=SIZE[0], width=SIZE[1])
        out = reference.step(clip)
        grids.append(out.indices[0, 0].numpy() if tokenizer.config.discrete else out.latent[0, :, 0].half().numpy())
    return grids
