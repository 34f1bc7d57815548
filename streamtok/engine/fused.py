"""The encoder's layers on fused kernels, for half precision on a GPU.

`fuse` returns a copy of a model that shares nothing but its weights' values: weights are packed as the kernels read
them, and the past of each convolution becomes a ring (see `kernels.temporal`), written in place. A layer leaves the
moments of its output on the tensor (`known_moments`) where its kernel has them anyway, and the next norm takes them.
"""

import copy
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamtok.engine.kernels import attention, norm, spatial, temporal
from streamtok.engine.rebuild import rebuilt
from streamtok.engine.rings import roll, unroll
from streamtok.model.blocks import Downsample, ResBlock
from streamtok.model.layers import FactorizedAttention, FactorizedConv, Norm, TemporalAttention
from streamtok.model.state import Clock, State, StateSpec
from streamtok.model.tokenizer import Tokenizer

EDGE = 1


def _padded(x: Tensor) -> Tensor:
    """x (N, C, H, W) as (N, H + 2, W + 2, C) with zeros around; no copy where a kernel has written it so."""
    known = getattr(x, "padded", None)
    return F.pad(x.permute(0, 2, 3, 1), (0, 0, EDGE, EDGE, EDGE, EDGE)).contiguous() if known is None else known


def _known(x: Tensor) -> Tensor | None:
    return getattr(x, "known_moments", None)


class Pointwise(nn.Module):
    """A 1x1 convolution with bias, residual and moments in one kernel. x (N, C, H, W) -> (N, D, H, W)."""

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        self.register_buffer("weight", weight.detach().reshape(1, weight.shape[0], -1).contiguous())
        self.register_buffer("bias", bias.detach().clone())

    def forward(self, x: Tensor, clock: Clock, residual: Tensor | None = None, want_moments: bool = False) -> Tensor:
        """x (N, C, H, W) channels last, residual (N, D, H, W) -> (N, D, H, W)."""
        rows = x.permute(0, 2, 3, 1).contiguous()[None]
        y, known = temporal.causal_conv(
            rows, clock.count, self.weight, self.bias, x.shape[0], 1, residual, want_moments
        )
        y.known_moments = known  # type: ignore[attr-defined]
        return y


class RingConv(nn.Module):
    """`FactorizedConv` whose spatial half writes into the ring that the temporal half reads.

    x (B*T, C, H, W) -> y (B*T, D, H, W); the ring (B, 2 + T, H, W, D) is changed in place and returned.
    """

    def __init__(self, conv: FactorizedConv, frames: int):
        super().__init__()
        self.frames, self.channels = frames, conv.temporal.weight.shape[2]
        self.register_buffer("packed", spatial.pack_weight(conv.spatial.weight))
        self.register_buffer("spatial_bias", conv.spatial.bias.detach().clone())
        self.register_buffer("weight", conv.temporal.weight.detach().contiguous())
        self.register_buffer("bias", conv.temporal.bias.detach().clone())

    def init_state(self, spec: StateSpec, height: int, width: int) -> Tensor:
        """Two past frames and room for those of a step."""
        return spec.zeros(2 + self.frames, height, width, self.channels)

    def to_plain(self, ring: Tensor, count: Tensor) -> Tensor:
        """The past as `FactorizedConv` keeps it: (slots, 2 + T, H, W, D) -> (slots, 2, H, W, D)."""
        return unroll(ring, count, 2)

    def from_plain(self, past: Tensor, count: Tensor) -> Tensor:
        """The inverse of `to_plain`."""
        return roll(past, count, 2 + self.frames)

    def forward(
        self, x: Tensor, ring: Tensor, clock: Clock, residual: Tensor | None = None, want_moments: bool = True
    ) -> tuple[Tensor, Tensor]:
        """x (B*T, C, H, W), residual (B*T, D, H, W) -> y (B*T, D, H, W), the ring."""
        spatial.conv3x3(_padded(x), self.packed, self.spatial_bias, ring, clock.count)
        y, known = temporal.causal_conv(
            ring, clock.count, self.weight, self.bias, self.frames, 1, residual, want_moments
        )
        y.known_moments = known  # type: ignore[attr-defined]
        return y, ring


class FusedNorm(nn.Module):
    """`Norm` that leaves zeros around its output for the convolution behind it. x (N, C, H, W) -> same."""

    def __init__(self, layer: Norm, edge: int):
        super().__init__()
        self.edge, self.silu = edge, layer.silu
        self.register_buffer("weight", layer.weight.detach().clone())
        self.register_buffer("bias", layer.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> same."""
        return norm.norm_silu(x, self.weight, self.bias, silu=self.silu, known=_known(x), edge=self.edge)


class FusedResBlock(nn.Module):
    """`ResBlock` of a video model. x (B*T, C, H, W) -> y (B*T, D, H, W)."""

    def __init__(self, block: ResBlock, frames: int):
        super().__init__()
        self.norm1, self.norm2 = FusedNorm(block.norm1, EDGE), FusedNorm(block.norm2, EDGE)
        self.conv1, self.conv2 = RingConv(block.conv1, frames), RingConv(block.conv2, frames)
        shortcut = block.nin_shortcut
        self.nin_shortcut = Pointwise(shortcut.weight, shortcut.bias) if isinstance(shortcut, nn.Conv2d) else None

    def init_state(self, spec: StateSpec, height: int, width: int) -> State:
        """Those of the two convolutions."""
        return {name: getattr(self, name).init_state(spec, height, width) for name in ("conv1", "conv2")}

    def forward(self, x: Tensor, state: State, clock: Clock) -> tuple[Tensor, State]:
        """x (B*T, C, H, W) -> y (B*T, D, H, W)."""
        y, first = self.conv1(self.norm1(x), state["conv1"], clock)
        shortcut = x if self.nin_shortcut is None else self.nin_shortcut(x, clock)
        y, second = self.conv2(
            self.norm2(y), state["conv2"], clock, shortcut.contiguous(memory_format=torch.channels_last)
        )
        return y, {"conv1": first, "conv2": second}


class FusedDownsample(nn.Module):
    """`Downsample` in space alone: the average pool becomes part of the strided convolution, its bias part of the 1x1.

    x (N, C, H, W) -> (N, C, H/2, W/2).
    """

    def __init__(self, layer: Downsample):
        super().__init__()
        weight = layer.conv1.weight.detach().float().clone()
        weight[:, :, :2, :2] += torch.eye(weight.shape[0], device=weight.device)[:, :, None, None] / 4
        dtype, last = layer.conv1.weight.dtype, layer.conv3.weight.detach().float().flatten(1)
        bias = last @ layer.conv1.bias.detach().float() + layer.conv3.bias.detach().float()
        self.register_buffer("weight", weight.to(dtype).contiguous(memory_format=torch.channels_last))
        self.conv3 = Pointwise(layer.conv3.weight, bias.to(dtype))

    def init_state(self, spec: StateSpec, height: int, width: int) -> State:
        """Empty."""
        return {}

    def forward(self, x: Tensor, state: State, clock: Clock) -> tuple[Tensor, State]:
        """x (N, C, H, W) -> (N, C, H/2, W/2)."""
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, 1, 0, 1)).permute(0, 3, 1, 2)
        return self.conv3(F.conv2d(x, self.weight, stride=2), clock, want_moments=True), state


class _FusedAttention(nn.Module):
    """One projection to queries, keys and values, and one back with the residual."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.norm = FusedNorm(layer.norm, 0)
        parts = (layer.q, layer.k, layer.v)
        self.register_buffer("weight", torch.cat([part.weight.detach().flatten(1) for part in parts]))
        self.register_buffer("bias", torch.cat([part.bias.detach() for part in parts]))
        self.proj_out = Pointwise(layer.proj_out.weight, layer.proj_out.bias)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """x (N, C, H, W) -> q, k, v, each (N, H*W, C)."""
        rows = self.norm(x).permute(0, 2, 3, 1).flatten(1, 2)
        return F.linear(rows, self.weight, self.bias).chunk(3, -1)

    def add(self, x: Tensor, attended: Tensor, clock: Clock) -> Tensor:
        """x (N, C, H, W) plus the projection of attended (N, H*W, C)."""
        return self.proj_out(attended.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2), clock, x, want_moments=True)


class FusedAttention(nn.Module):
    """`FactorizedAttention`, one latent step at a time. x (B, C, H, W) -> same."""

    def __init__(self, layer: FactorizedAttention, over_space: str):
        super().__init__()
        self.over_space = getattr(attention, over_space)
        self.spatial, self.temporal = _FusedAttention(layer.spatial), _FusedAttention(layer.temporal)
        self.channels = layer.temporal.q.in_channels

    def init_state(self, spec: StateSpec, height: int, width: int) -> State:
        """As `TemporalAttention`."""
        shape = (height * width, spec.context, self.channels)
        return {"key": spec.zeros(*shape), "value": spec.zeros(*shape)}

    def forward(self, x: Tensor, ring: State, clock: Clock) -> tuple[Tensor, State]:
        """x (B, C, H, W), ring of (B, H*W, context, C) -> y like x, and the same ring, changed in place."""
        x = self.spatial.add(x, self.over_space(*self.spatial.project(x)), clock)
        q, k, v = self.temporal.project(x)
        attended = attention.over_ring(q, k, v, ring["key"], ring["value"], clock.count)
        return self.temporal.add(x, attended, clock), ring


def unsupported(model: Tokenizer) -> str | None:
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


def fuse(model: Tokenizer, over_space: str = "flash") -> Tokenizer:
    """A copy of a half-precision video model whose encoder runs one latent step at a time on fused kernels.

    `over_space`: "flash" or "strips", see `kernels.attention`. ValueError if the model does not fit.
    """
    reason = unsupported(model)
    if reason:
        raise ValueError(f"this model has no fused form: {reason}; use the graph of the plain step instead")
    encoder = copy.copy(model.encoder)
    encoder.__dict__["_modules"] = dict(model.encoder._modules)
    frames = model.config.temporal_compression // model.config.patch_size
    encoder.conv_in = RingConv(encoder.conv_in, frames)
    levels = []
    for level in model.encoder.down:
        levels.append(rebuilt(level, partial(_fused, frames=frames, over_space=over_space)))
        if level.resample and level.downsample.temporal:
            frames //= 2
    encoder.down = nn.ModuleList(levels)
    if encoder.mid is not None:
        encoder.mid = rebuilt(encoder.mid, partial(_fused, frames=frames, over_space=over_space))
    encoder.norm_out = FusedNorm(encoder.norm_out, EDGE)
    encoder.conv_out = RingConv(encoder.conv_out, frames)
    return model.with_modules(encoder=encoder).eval()


def _fused(module: nn.Module, frames: int, over_space: str) -> nn.Module | None:
    """The fused form of a block, or None."""
    if isinstance(module, ResBlock):
        return FusedResBlock(module, frames)
    if isinstance(module, FactorizedAttention):
        return FusedAttention(module, over_space)
    if isinstance(module, Downsample) and module.spatial and not module.temporal:
        return FusedDownsample(module)
    return module if isinstance(module, Downsample | TemporalAttention) else None
