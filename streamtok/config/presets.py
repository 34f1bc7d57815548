"""The preset configurations: ours, and the variants that NVIDIA published."""

import math
from dataclasses import replace
from typing import Any

from streamtok.config.tokenizer_config import FSQ_LEVELS, TokenizerConfig


def _published(kind: str, spatial: int, temporal: int = 1, patch_size: int = 4) -> TokenizerConfig:
    """One of the published variants; those of Cosmos Tokenize1 for 360p have wavelets of patch size 2."""
    wide = kind == "di" or (kind == "dv" and patch_size == 2)
    values: dict[str, Any] = {
        "name": kind,
        "channels": 128,
        "channels_mult": (2, 4, 4),
        "num_res_blocks": 2,
        "patch_size": patch_size,
    }
    values |= {"resolution": 1024, "attn_resolutions": (32,), "z_channels": 256 if wide else 16}
    values |= {"spatial_compression": spatial, "temporal_compression": temporal}
    values |= {"embedding_dim": 6, "levels": FSQ_LEVELS} if kind[0] == "d" else {"latent_channels": 16}
    config = TokenizerConfig.from_published(values)
    return config if patch_size == 4 else replace(config, name=f"{config.name}-360p")


_PUBLISHED = [_published(kind, spatial) for kind in ("ci", "di") for spatial in (8, 16)]
_PUBLISHED += [_published(kind, *sizes) for kind in ("cv", "dv") for sizes in ((8, 4), (8, 8), (16, 8))]
_PUBLISHED += [_published(kind, spatial, patch_size=2) for kind in ("ci", "di") for spatial in (8, 16)]
_PUBLISHED += [_published(kind, 8, 4, patch_size=2) for kind in ("cv", "dv")]

# Ours: 4x8x8, no attention, a light decoder at 1/4 resolution (`slim`), tokens of the same shape and range as
# cosmos-dv4x8x8.
_NANO = TokenizerConfig(
    name="nano",
    slim=True,
    mid=False,
    mid_attention=False,
    stem_channels=48,
    encoder_channels=(48, 160),
    decoder_channels=(48, 160),
    encoder_blocks=(1, 2),
    decoder_blocks=(1, 1),
)
_SMALL = replace(
    _NANO,
    name="small",
    stem_channels=96,
    encoder_channels=(96, 320),
    decoder_channels=(160, 320),
    encoder_blocks=(2, 2),
    decoder_blocks=(3, 3),
)

_NANO_P = replace(_NANO, name="nano-p", predictive=True)
_REFINEMENT = 65_536 - math.prod(FSQ_LEVELS)  # the codes of 16 bits that FSQ does not use
_NANO_R = replace(_NANO, name="nano-r", refinement=_REFINEMENT)
_NANO_PR = replace(
    _NANO_P,
    name="nano-pr",
    refinement=_REFINEMENT,
    corrections=2,
    decoder_channels=(64, 160),
    decoder_blocks=(2, 2),
)
_PRESETS = (_NANO, _NANO_P, _NANO_R, _NANO_PR, _SMALL, *_PUBLISHED)
PRESETS: dict[str, TokenizerConfig] = {config.name: config for config in _PRESETS}


def list_presets() -> list[str]:
    """The names that `streamtok.load` takes, ours first."""
    return list(PRESETS)
