"""The encoder's layers on fused kernels, for half precision; `fused` puts them into a model.

Weights are packed as the kernels read them. The past of each convolution is a ring written in place (see
`kernels.temporal`). If a kernel computes the moments of its output anyway, its layer returns them too. The next norm
then need not read the frame for them.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamtok.engine.gpu.kernels import attention, norm, ring_attention, spatial, temporal
from streamtok.engine.rings import roll, unroll
from streamtok.model.blocks import Downsample, ResBlock
from streamtok.model.layers import FactorizedAttention, FactorizedConv, Norm, SpatialAttention, TemporalAttention
from streamtok.model.state import Clock, State, StateSpec

EDGE = 1


class Features(NamedTuple):
    """What layers pass on: x (N, C, H, W) channels last, and its `norm.moments` (N, 3, pieces) if they are known."""

    x: Tensor
    moments: Tensor | None = None


def pad_zeros(x: Tensor) -> Tensor:
    """x (N, C, H, W) -> (N, H + 2, W + 2, C) with zeros around."""
    return F.pad(x.permute(0, 2, 3, 1), (0, 0, EDGE, EDGE, EDGE, EDGE)).contiguous()


def copy_parameter(parameter: Tensor | None) -> Tensor:
    """A detached copy of a weight (D, ...) or bias (D,); ValueError for None."""
    if parameter is None:
        raise ValueError("a convolution has no bias, the fused kernels need one")
    return parameter.detach().clone()


class Pointwise(nn.Module):
    """A 1x1 convolution with bias, residual and moments in one kernel. x (N, C, H, W) -> (N, D, H, W)."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.register_buffer("weight", weight.detach().reshape(1, weight.shape[0], -1).contiguous())
        self.register_buffer("bias", copy_parameter(bias))

    def forward(self, x: Tensor, clock: Clock, residual: Tensor | None = None, want_moments: bool = False) -> Features:
        """x (N, C, H, W) channels last, residual (N, D, H, W) -> (N, D, H, W)."""
        rows, frames = x.permute(0, 2, 3, 1).contiguous()[None], x.shape[0]
        y, moments = temporal.causal_conv(
            rows, clock.count, self.weight, self.bias, frames, residual=residual, want_moments=want_moments
        )
        return Features(y, moments)


class RingConv(nn.Module):
    """`FactorizedConv` whose spatial half writes into the ring that the temporal half reads.

    Padded x (B*T, H + 2, W + 2, C) -> y (B*T, D, H, W); the ring (B, 2 + T, H, W, D) is changed in place and returned.
    """

    packed: Tensor
    spatial_bias: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, conv: FactorizedConv, frames: int):
        super().__init__()
        self.frames, self.channels = frames, conv.temporal.weight.shape[2]
        self.register_buffer("packed", spatial.pack_weight(conv.spatial.weight))
        self.register_buffer("spatial_bias", copy_parameter(conv.spatial.bias))
        self.register_buffer("weight", conv.temporal.weight.detach().contiguous())
        self.register_buffer("bias", copy_parameter(conv.temporal.bias))

    def init_state(self, spec: StateSpec, height: int, width: int) -> Tensor:
        """Two past frames and room for those of a step, (S, 2 + T, H, W, D)."""
        return spec.zeros(2 + self.frames, height, width, self.channels)

    def to_plain(self, ring: Tensor, count: Tensor) -> Tensor:
        """The ring as the past of a `FactorizedConv`: (S, 2 + T, H, W, D), count (S,) -> (S, 2, H, W, D)."""
        return unroll(ring, count, 2)

    def from_plain(self, past: Tensor, count: Tensor) -> Tensor:
        """The inverse of `to_plain`: (S, 2, H, W, D) -> (S, 2 + T, H, W, D)."""
        return roll(past, count, 2 + self.frames)

    def forward(
        self, padded: Tensor, ring: Tensor, clock: Clock, residual: Tensor | None = None
    ) -> tuple[Features, Tensor]:
        """padded (B*T, H + 2, W + 2, C), residual (B*T, D, H, W) -> y (B*T, D, H, W) with its moments, the ring."""
        spatial.conv3x3(padded, self.packed, self.spatial_bias, ring, clock.count)
        y, moments = temporal.causal_conv(
            ring, clock.count, self.weight, self.bias, self.frames, residual=residual, want_moments=True
        )
        return Features(y, moments), ring


class FusedNorm(nn.Module):
    """`Norm` with `edge` zeros around its output, as padding of the convolution that follows."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: Norm, edge: int):
        super().__init__()
        self.edge, self.silu = edge, layer.silu
        self.register_buffer("weight", copy_parameter(layer.weight))
        self.register_buffer("bias", copy_parameter(layer.bias))

    def forward(self, features: Features) -> Tensor:
        """x (N, C, H, W) -> (N, H + 2 * edge, W + 2 * edge, C)."""
        x, known = features
        return norm.norm_silu(x, self.weight, self.bias, silu=self.silu, known=known, edge=self.edge)


class FusedResBlock(nn.Module):
    """`ResBlock` of a video model. x (B*T, C, H, W) -> y (B*T, D, H, W)."""

    def __init__(self, block: ResBlock, frames: int):
        super().__init__()
        assert isinstance(block.conv1, FactorizedConv), type(block.conv1)  # `find_fusing_obstacle` refuses image models
        assert isinstance(block.conv2, FactorizedConv), type(block.conv2)
        self.norm1, self.norm2 = FusedNorm(block.norm1, EDGE), FusedNorm(block.norm2, EDGE)
        self.conv1, self.conv2 = RingConv(block.conv1, frames), RingConv(block.conv2, frames)
        shortcut = block.nin_shortcut
        self.nin_shortcut = Pointwise(shortcut.weight, shortcut.bias) if isinstance(shortcut, nn.Conv2d) else None

    def init_state(self, spec: StateSpec, height: int, width: int) -> State:
        """The states of the two convolutions."""
        return {name: getattr(self, name).init_state(spec, height, width) for name in ("conv1", "conv2")}

    def forward(self, features: Features, state: State, clock: Clock) -> tuple[Features, State]:
        """x (B*T, C, H, W) -> y (B*T, D, H, W)."""
        y, first = self.conv1(self.norm1(features), state["conv1"], clock)
        shortcut = features.x if self.nin_shortcut is None else self.nin_shortcut(features.x, clock).x
        shortcut = shortcut.contiguous(memory_format=torch.channels_last)
        y, second = self.conv2(self.norm2(y), state["conv2"], clock, shortcut)
        return y, {"conv1": first, "conv2": second}


class FusedDownsample(nn.Module):
    """`Downsample` in space only, with the average pool merged into the strided convolution, its bias into the 1x1.

    x (N, C, H, W) -> (N, C, H/2, W/2).
    """

    weight: Tensor

    def __init__(self, layer: Downsample):
        super().__init__()
        weight = layer.conv1.weight.detach().float().clone()
        weight[:, :, :2, :2] += torch.eye(weight.shape[0], device=weight.device)[:, :, None, None] / 4
        dtype, last = layer.conv1.weight.dtype, layer.conv3.weight.detach().float().flatten(1)
        bias = last @ copy_parameter(layer.conv1.bias).float() + copy_parameter(layer.conv3.bias).float()
        self.register_buffer("weight", weight.to(dtype).contiguous(memory_format=torch.channels_last))
        self.conv3 = Pointwise(layer.conv3.weight, bias.to(dtype))

    def init_state(self, spec: StateSpec, height: int, width: int) -> State:
        """Empty."""
        return {}

    def forward(self, features: Features, state: State, clock: Clock) -> tuple[Features, State]:
        """x (N, C, H, W) -> (N, C, H/2, W/2)."""
        x = F.pad(features.x.permute(0, 2, 3, 1), (0, 0, 0, 1, 0, 1)).permute(0, 3, 1, 2)
        return self.conv3(F.conv2d(x, self.weight, stride=2), clock, want_moments=True), state


class PlainDownsample(nn.Module):
    """`Downsample` as it is, between fused layers. x (B*T, C, H, W) -> (B*T', C, H', W')."""

    def __init__(self, layer: Downsample):
        super().__init__()
        self.layer, self.init_state = layer, layer.init_state

    def forward(self, features: Features, state: State, clock: Clock) -> tuple[Features, State]:
        """x (B*T, C, H, W) -> (B*T', C, H', W')."""
        y, state = self.layer(features.x, state, clock)
        return Features(y), state


class _FusedAttention(nn.Module):
    """One projection to queries, keys and values, and one back with the residual."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: SpatialAttention | TemporalAttention):
        super().__init__()
        self.norm = FusedNorm(layer.norm, 0)
        layers = (layer.q, layer.k, layer.v)
        self.register_buffer("weight", torch.cat([layer.weight.detach().flatten(1) for layer in layers]))
        self.register_buffer("bias", torch.cat([copy_parameter(layer.bias) for layer in layers]))
        self.proj_out = Pointwise(layer.proj_out.weight, layer.proj_out.bias)

    def project(self, features: Features) -> tuple[Tensor, ...]:
        """x (N, C, H, W) -> q, k, v, each (N, H*W, C)."""
        rows = self.norm(features).flatten(1, 2)
        return F.linear(rows, self.weight, self.bias).chunk(3, -1)

    def add(self, x: Tensor, attended: Tensor, clock: Clock) -> Features:
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

    def forward(self, features: Features, ring: State, clock: Clock) -> tuple[Features, State]:
        """x (B, C, H, W), ring of (B, H*W, context, C) -> y like x, and the same ring, changed in place."""
        seen = self.spatial.add(features.x, self.over_space(*self.spatial.project(features)), clock)
        q, k, v = self.temporal.project(seen)
        attended = ring_attention.over_ring(q, k, v, ring["key"], ring["value"], clock.count)
        return self.temporal.add(seen.x, attended, clock), ring
