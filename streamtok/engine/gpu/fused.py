"""Puts a model's encoder on fused kernels, for streams of one latent step at a time, and opens those streams."""

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamtok.engine.configuration import EngineConfiguration
from streamtok.engine.gpu.graph_streams import GraphStream, GraphStreams
from streamtok.engine.gpu.kernels.fsq import fsq_pack
from streamtok.engine.gpu.kernels.haar import haar_bands
from streamtok.engine.gpu.layers import (
    EDGE,
    FusedAttention,
    FusedDownsample,
    FusedNorm,
    FusedResBlock,
    PlainDownsample,
    RingConv,
    pad_zeros,
)
from streamtok.engine.rebuild import copy_module, exchange_modules
from streamtok.model import Encoded, EncodeStream, Tokenizer
from streamtok.model.blocks import Downsample, ResBlock
from streamtok.model.frames import to_float
from streamtok.model.layers import FactorizedAttention, FactorizedConv, Norm
from streamtok.model.network import unfold
from streamtok.model.quantizer import FSQTables, fsq_tables
from streamtok.model.state import Clock, State
from streamtok.model.wavelet import haar_matrix


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


class FusedStream(GraphStream):
    """A stream of a model from `fuse_model`: its convolutions keep their past in rings."""

    @cached_property  # computed by the warm-up steps, before a capture
    def _tables(self) -> FSQTables | None:
        """The tables of `fsq_pack`, for an FSQ model."""
        config = self.model.config
        return fsq_tables(config.levels, torch.float32, self.model.device) if config.quantizer == "fsq" else None

    @cached_property
    def _signs(self) -> Tensor | None:
        """The signs of `haar_bands`, (64, 64); None for patches of another size than 4."""
        if self.model.config.patch_size != 4:
            return None
        signs = haar_matrix(4, self.model.axes, torch.float32, torch.device("cpu")) * 64
        return signs.T.half().contiguous().to(self.model.device)

    def _compute(self, x: Tensor, state: State, clock: Clock, keyframe: Tensor) -> tuple[Encoded, State]:
        """x (S, 3, G, H, W), keyframe (S,) bool -> tokens and latents (S, C, 1, h, w), the new state."""
        if x.dtype == torch.uint8 and self._signs is not None:
            padded = haar_bands(x, self._signs, self.model.dtype, edge=1)
        else:
            padded = pad_zeros(self.model.to_bands(to_float(x, self.model.dtype)))
        features, new = self.model.encoder(padded, state["encoder"], clock)
        if self._tables is None or "hold" in state:
            coded, held = self.model.quantize(features.x, x.shape[0], state, clock)
            indices = None if coded.indices is None else coded.indices.int()
            return Encoded(indices, coded.latent), {"encoder": new} | held
        last = self.model.quant_conv  # has few channels: float32 avoids a rounding just before the tokens
        bias = None if last.bias is None else last.bias.float()
        z = F.conv2d(features.x.float(), last.weight.float(), bias)
        indices = fsq_pack(z, self._tables).unflatten(0, (x.shape[0], -1))
        return Encoded(indices, unfold(z, x.shape[0])), {"encoder": new}


class FusedStreams(GraphStreams):
    """`Streams` whose encoders run on fused kernels."""

    def __init__(self, plain: Tokenizer, configuration: EngineConfiguration):
        super().__init__(plain, configuration)
        self.fused = fuse_model(plain, configuration.over_space)

    def open_encoder(self, slots: int, size: tuple[int, int], context: int) -> EncodeStream:
        """As `Streams` says, on fused kernels."""
        return FusedStream(self.fused, slots, size, context, self.configuration, self.pool)
