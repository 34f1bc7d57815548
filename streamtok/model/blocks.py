"""Residual blocks and resampling, for video and image models.

Every block maps (x, state, clock) to (y, state); blocks of image models have an empty state.
"""

from collections.abc import Sequence
from typing import TypeVar, cast

import torch.nn.functional as F
from torch import Tensor, nn

from streamtok.model.layers import (
    FactorizedAttention,
    FactorizedConv,
    Norm,
    SpatialAttention,
    SpatialConv,
    TemporalConv,
    pad_far,
    repeat_space,
)
from streamtok.model.state import Clock, State, StateSpec

M = TypeVar("M", bound=nn.Module)


def module_list(modules: Sequence[M]) -> Sequence[M]:
    """An `nn.ModuleList` whose type says what it holds."""
    return cast(Sequence[M], nn.ModuleList(modules))


class ResBlock(nn.Module):
    """Norm, SiLU and convolution, twice, plus a shortcut. x (B*T, C, H, W) -> y (B*T, D, H, W)."""

    conv1: FactorizedConv | SpatialConv  # in video and in image models
    conv2: FactorizedConv | SpatialConv

    def __init__(self, dim_in: int, dim_out: int, groups: int, video: bool, dropout: float = 0.0):
        super().__init__()
        self.video = video
        self.norm1, self.norm2 = Norm(dim_in, groups), Norm(dim_out, groups)
        if video:
            self.conv1, self.conv2 = FactorizedConv(dim_in, dim_out), FactorizedConv(dim_out, dim_out)
        else:
            self.conv1 = SpatialConv(dim_in, dim_out, 3, padding=1)
            self.conv2 = SpatialConv(dim_out, dim_out, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.nin_shortcut = SpatialConv(dim_in, dim_out, 1) if dim_in != dim_out else nn.Identity()

    def init_state(self, spec: StateSpec, height: int, width: int) -> State:
        """The states of the two convolutions; empty in image models."""
        if not self.video:
            return {}
        return {name: getattr(self, name).init_state(spec, height, width) for name in ("conv1", "conv2")}

    def forward(self, x: Tensor, state: State, clock: Clock) -> tuple[Tensor, State]:
        """x (B*T, C, H, W) -> (B*T, D, H, W)."""
        if not self.video:
            y = self.conv2(self.dropout(self.norm2(self.conv1(self.norm1(x)))))
            return self.nin_shortcut(x) + y, {}
        y, first = self.conv1(self.norm1(x), state["conv1"], clock)
        y, second = self.conv2(self.dropout(self.norm2(y)), state["conv2"], clock)
        return self.nin_shortcut(x) + y, {"conv1": first, "conv2": second}


def build_attention(channels: int, groups: int, video: bool) -> "Attention":
    """Factorized attention for video models, spatial attention for image models. x (B*T, C, H, W) -> same."""
    return FactorizedAttention(channels, groups) if video else ImageAttention(channels, groups)


class Stateless(nn.Module):
    """Mixin that gives a stateless layer the signature of stateful ones. x (N, C, H, W) -> (N, D, H', W')."""

    def init_state(self, spec: StateSpec, height: int, width: int) -> State:
        """Empty."""
        return {}

    def forward(self, x: Tensor, state: State, clock: Clock) -> tuple[Tensor, State]:
        """x (N, C, H, W) -> (N, D, H', W')."""
        return super().forward(x), {}


class ImageAttention(Stateless, SpatialAttention):  # type: ignore[misc]
    """Spatial attention of image models. x (N, C, H, W) -> same."""


Attention = FactorizedAttention | ImageAttention


class Downsample(nn.Module):
    """Halves space, time or both. x (B*T, C, H, W) -> (B*T', C, H', W').

    Space: stride-2 3x3 convolution plus 2x2 average, after one zero row and column at the far side. Time: stride-2
    3-tap causal convolution, with the first frame repeated in front, plus the average of pairs. Then 1x1x1. Image
    models have the 3x3 convolution only.
    """

    def __init__(self, channels: int, spatial: bool, temporal: bool, video: bool):
        super().__init__()
        self.spatial, self.temporal, self.video = spatial, temporal, video
        if not video:
            self.conv = SpatialConv(channels, channels, 3, stride=2)
            return
        if spatial:
            self.conv1 = SpatialConv(channels, channels, 3, stride=2)
        if temporal:
            self.conv2 = TemporalConv(channels, channels, stride=2)
        self.conv3 = SpatialConv(channels, channels, 1)

    def init_state(self, spec: StateSpec, height: int, width: int) -> State:
        """The temporal convolution's last frame at half size, (S, 1, H', W', C)."""
        scale = 2 if self.spatial else 1
        return {"conv2": self.conv2.init_state(spec, height // scale, width // scale)} if self.temporal else {}

    def forward(self, x: Tensor, state: State, clock: Clock) -> tuple[Tensor, State]:
        """x (B*T, C, H, W) -> (B*T', C, H', W')."""
        if not self.video:
            return self.conv(pad_far(x)), {}
        if self.spatial:
            x = self.conv1(pad_far(x)) + F.avg_pool2d(x, 2)
        if self.temporal:
            y, past = self.conv2(x, state["conv2"], clock)
            x, state = y + x.unflatten(0, (-1, 2)).mean(1), {"conv2": past}
        return self.conv3(x), state


class Upsample(nn.Module):
    """Doubles time, space or both. x (B*T, C, H, W) -> (B*T', D, H', W').

    Time: repeat each frame, then a residual 3-tap convolution. Space: repeat each pixel, then a residual 3x3
    convolution. 1x1x1 comes last; in slim models first, where it narrows the channels. Image models: repeat, then 3x3.
    """

    def __init__(self, dim_in: int, dim_out: int, spatial: bool, temporal: bool, video: bool, slim: bool):
        super().__init__()
        self.spatial, self.temporal, self.video, self.slim = spatial, temporal, video, slim
        if not self.video:
            self.conv = SpatialConv(dim_in, dim_out, 3, padding=1)
            return
        inner = dim_out if self.slim else dim_in
        if temporal:
            self.conv1 = TemporalConv(inner, inner)
        if spatial:
            self.conv2 = SpatialConv(inner, inner, 3, padding=1)
        self.conv3 = SpatialConv(dim_in, dim_out, 1)

    def init_state(self, spec: StateSpec, height: int, width: int) -> State:
        """The last frame before it is repeated, (S, 1, H, W, C): both copies have the same past."""
        if not self.temporal:
            return {}
        return {"conv1": spec.zeros(1, height, width, self.conv1.weight.shape[2])}

    def forward(self, x: Tensor, state: State, clock: Clock) -> tuple[Tensor, State]:
        """x (B*T, C, H, W) -> (B*T', D, H', W')."""
        if not self.video:
            return self.conv(repeat_space(x)), {}
        if self.slim:
            x = self.conv3(x)
        if self.temporal:
            x, state = self._double_time(x, state, clock)
        if self.spatial:
            x = repeat_space(x)
            x = x + self.conv2(x)
        return (x if self.slim else self.conv3(x)), state

    def _double_time(self, x: Tensor, state: State, clock: Clock) -> tuple[Tensor, State]:
        past = state["conv1"].expand(-1, 2, -1, -1, -1)  # the last frame, repeated like those that follow
        x = x.repeat_interleave(2, 0)
        y, past = self.conv1(x, past, clock)
        return x + y, {"conv1": past[:, -1:]}
