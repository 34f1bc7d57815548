"""The encoder on fused kernels, one latent step at a time."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from streamtok.engine.gpu.layers import (
    EDGE,
    Features,
    FusedAttention,
    FusedDownsample,
    FusedNorm,
    FusedResBlock,
    PlainDownsample,
    RingConv,
    pad_edges,
)
from streamtok.model import Tokenizer
from streamtok.model.blocks import Attention, Downsample, module_list
from streamtok.model.encoder import Encoder, EndConv, Level, Mid
from streamtok.model.layers import FactorizedAttention, FactorizedConv
from streamtok.model.state import Clock, State, StateSpec


class FusedLevel(nn.Module):
    """`Level` of an encoder. x (B*T, C, H, W) -> (B*T', D, H', W')."""

    downsample: FusedDownsample | PlainDownsample | None

    def __init__(self, level: Level, frames: int, over_space: str):
        super().__init__()
        self.block = module_list([FusedResBlock(block, frames) for block in level.block])
        self.attn = module_list([fuse_attention(layer, over_space) for layer in level.attn])
        self.downsample = fuse_downsample(level.downsample) if level.resample else None

    def init_state(self, spec: StateSpec, height: int, width: int) -> State:
        """As `Level`."""
        state: State = {
            "block": {str(i): layer.init_state(spec, height, width) for i, layer in enumerate(self.block)},
            "attn": {str(i): layer.init_state(spec, height, width) for i, layer in enumerate(self.attn)},
        }
        return state | ({"downsample": self.downsample.init_state(spec, height, width)} if self.downsample else {})

    def forward(self, features: Features, state: State, clock: Clock) -> tuple[Features, State]:
        """x (B*T, C, H, W) -> (B*T', D, H', W')."""
        new: State = {"block": {}, "attn": {}}
        for i, block in enumerate(self.block):
            features, new["block"][str(i)] = block(features, state["block"][str(i)], clock)
            if self.attn:
                features, new["attn"][str(i)] = self.attn[i](features, state["attn"][str(i)], clock)
        if self.downsample is not None:
            features, new["downsample"] = self.downsample(features, state["downsample"], clock)
        return features, new


class FusedMid(nn.Module):
    """`Mid` of a video model. x (B*T, C, h, w) -> same."""

    def __init__(self, mid: Mid, frames: int, over_space: str):
        super().__init__()
        self.block_1 = FusedResBlock(mid.block_1, frames)
        if hasattr(mid, "attn_1"):
            self.attn_1 = fuse_attention(mid.attn_1, over_space)
        self.block_2 = FusedResBlock(mid.block_2, frames)

    def init_state(self, spec: StateSpec, height: int, width: int) -> State:
        """As `Mid`."""
        return {name: getattr(self, name).init_state(spec, height, width) for name, _ in self.named_children()}

    def forward(self, features: Features, state: State, clock: Clock) -> tuple[Features, State]:
        """x (B*T, C, h, w) -> same."""
        new = {}
        for name, layer in self.named_children():
            features, new[name] = layer(features, state[name], clock)
        return features, new


class FusedEncoder(nn.Module):
    """`Encoder` of a half-precision video model. x (B*T, bands, H/p, W/p) -> (B*T', z_channels, h, w)."""

    def __init__(self, encoder: Encoder, frames: int, over_space: str):
        super().__init__()
        self.conv_in, levels = RingConv(need_video(encoder.conv_in), frames), []
        for level in encoder.down:
            levels.append(FusedLevel(level, frames, over_space))
            frames //= 2 if level.resample and level.downsample.temporal else 1
        self.down, self.scale = module_list(levels), encoder.scale
        self.mid = FusedMid(encoder.mid, frames, over_space) if encoder.mid is not None else None
        self.norm_out = FusedNorm(encoder.norm_out, EDGE)
        self.conv_out = RingConv(need_video(encoder.conv_out), frames)

    def init_state(self, spec: StateSpec, height: int, width: int) -> State:
        """For bands of height x width; named as that of `Encoder`, whose snapshots it shares."""
        state: State = {"conv_in": self.conv_in.init_state(spec, height, width), "down": {}}
        for i, level in enumerate(self.down):
            state["down"][str(i)] = level.init_state(spec, height, width)
            height, width = height // self.scale[i], width // self.scale[i]
        if self.mid is not None:
            state["mid"] = self.mid.init_state(spec, height, width)
        return state | {"conv_out": self.conv_out.init_state(spec, height, width)}

    def forward(self, x: Tensor, state: State, clock: Clock) -> tuple[Tensor, State]:
        """x (B*T, bands, H/p, W/p) -> (B*T', z_channels, h, w)."""
        return self.encode_padded(pad_edges(x), state, clock)

    def encode_padded(self, padded: Tensor, state: State, clock: Clock) -> tuple[Tensor, State]:
        """As `forward`, of bands with zeros around: (B*T, H/p + 2, W/p + 2, bands)."""
        new: State = {"down": {}}
        features, new["conv_in"] = self.conv_in(padded, state["conv_in"], clock)
        for i, level in enumerate(self.down):
            features, new["down"][str(i)] = level(features, state["down"][str(i)], clock)
        if self.mid is not None:
            features, new["mid"] = self.mid(features, state["mid"], clock)
        features, new["conv_out"] = self.conv_out(self.norm_out(features), state["conv_out"], clock)
        return features.x, new


@dataclass(frozen=True)
class FusedModel:
    """A tokenizer whose encoder is on fused kernels, and that encoder."""

    tokenizer: Tokenizer
    encoder: FusedEncoder


def fuse_model(model: Tokenizer, over_space: str = "flash") -> FusedModel:
    """A copy of a half-precision video model whose encoder runs one latent step at a time on fused kernels.

    It shares nothing with `model` but the values of its weights. `over_space`: "flash" or "strips", see
    `kernels.attention`. ValueError if the model does not fit.
    """
    reason = find_obstacle(model)
    if reason:
        raise ValueError(f"this model has no fused form: {reason}; use the graph of the plain step instead")
    frames = model.config.temporal_compression // model.config.patch_size
    encoder = FusedEncoder(model.encoder, frames, over_space).eval()
    return FusedModel(model.with_modules(encoder=encoder), encoder)


def find_obstacle(model: Tokenizer) -> str | None:
    """Why a model cannot run on the fused kernels, or None."""
    config = model.config
    if not config.video or config.num_groups != 1 or config.predictive:
        return f"{config.name!r} is an image model, a predictive one or has group norm of several groups"
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


def need_video(conv: EndConv) -> FactorizedConv:
    """The first or last convolution of a video model; ValueError for one of an image model."""
    if not isinstance(conv, FactorizedConv):
        raise ValueError(f"a {type(conv).__name__} mixes no time, the fused kernels are for video models")
    return conv


def fuse_attention(layer: Attention, over_space: str) -> FusedAttention:
    """The fused form of a video model's attention; ValueError for that of an image model."""
    if not isinstance(layer, FactorizedAttention):
        raise ValueError(f"a {type(layer).__name__} mixes no time, the fused kernels are for video models")
    return FusedAttention(layer, over_space)


def fuse_downsample(layer: Downsample) -> FusedDownsample | PlainDownsample:
    """The fused form where one exists: halving space alone."""
    return FusedDownsample(layer) if layer.spatial and not layer.temporal else PlainDownsample(layer)
