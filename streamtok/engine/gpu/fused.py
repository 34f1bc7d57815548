"""Puts a model's encoder on fused kernels, for streams of one latent step at a time."""

import torch
from torch import nn

from streamtok.engine.gpu.layers import (
    EDGE,
    FusedAttention,
    FusedDownsample,
    FusedNorm,
    FusedResBlock,
    PlainDownsample,
    RingConv,
)
from streamtok.engine.rebuild import copy_module, exchange_modules
from streamtok.model import Tokenizer
from streamtok.model.blocks import Downsample, ResBlock
from streamtok.model.layers import FactorizedAttention, FactorizedConv, Norm


def fuse_model(model: Tokenizer, over_space: str = "flash") -> Tokenizer:
    """A copy of a half-precision video model whose encoder runs one latent step at a time on fused kernels.

    It maps zero-padded bands, (B*T, H/p + 2, W/p + 2, bands), to `Features` (B*T', z_channels, h, w), with copies of
    the weights. `over_space`: "flash" or "strips", see `kernels.attention`. ValueError if the model does not fit.
    """
    reason = find_fusing_obstacle(model)
    if reason:
        raise ValueError(f"this model has no fused form: {reason}; use the graph of the plain step instead")
    frames = model.config.temporal_compression // model.config.patch_size

    def fuse(part: nn.Module, frames: int) -> nn.Module:
        return exchange_modules(part, lambda module: _fuse_layer(module, frames, over_space))

    parts = {"conv_in": fuse(model.encoder.conv_in, frames)}
    levels = []
    for level in model.encoder.down:
        levels.append(fuse(level, frames))
        frames //= 2 if level.resample and level.downsample.temporal else 1
    parts["down"] = nn.ModuleList(levels)
    parts |= {name: fuse(part, frames) for name, part in model.encoder.named_children() if name not in parts}
    return model.with_modules(encoder=copy_module(model.encoder, **parts).eval())


def _fuse_layer(module: nn.Module, frames: int, over_space: str) -> nn.Module | None:
    """The fused form of a layer that sees `frames` frames per step; None for modules without one."""
    if isinstance(module, FactorizedConv):
        return RingConv(module, frames)
    if isinstance(module, ResBlock):
        return FusedResBlock(module, frames)
    if isinstance(module, FactorizedAttention):
        return FusedAttention(module, over_space)
    if isinstance(module, Downsample):
        return FusedDownsample(module) if module.spatial and not module.temporal else PlainDownsample(module)
    return FusedNorm(module, EDGE) if isinstance(module, Norm) else None


def find_fusing_obstacle(model: Tokenizer) -> str | None:
    """Why a model cannot run on the fused kernels, or None."""
    config = model.config
    if not config.video or config.num_groups != 1 or config.closed_loop:
        return f"{config.name!r} is an image model, in a closed loop or has group norm of several groups"
    odd = [n for n in (config.stem_channels, *config.encoder_channels, config.z_channels) if n % 16]
    if odd:
        return f"channel counts {odd} are not multiples of 16"
    attends = config.mid_attention or config.attention_levels
    if attends and any(n & (n - 1) for n in config.encoder_channels):
        return f"attention over channel counts {config.encoder_channels}, the kernels take powers of two"
    if config.temporal_resamplings and config.attention_levels:
        return "attention before the last temporal downsampling sees several steps at once"
    if model.dtype not in (torch.float16, torch.bfloat16):
        return f"precision is {model.dtype}, the fused kernels are for float16 and bfloat16"
    return None
