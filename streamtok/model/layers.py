"""The layers that mix time, and the few that do not. A video is a batch of frames, (B*T, C, H, W) channels last.

Layers are pure: `y, state = layer(x, state, clock)`, or `y = layer(x)` when they see one frame at a time.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamtok.model.functional import Normalize, attend_over_space, attend_over_time, convolve_time, plain_norm
from streamtok.model.state import Clock, State, StateSpec


class SpatialConv(nn.Conv2d):
    """A 2D convolution of each frame alone. x (N, C, H, W) -> (N, D, H', W').

    The memory format of the weight decides. Channels last is fast; on the CPU the plain format sums in shorter runs, so
    that float32 stays within a few units of the published code.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> (N, D, H', W')."""
        if not x.is_cuda and not self.weight.is_contiguous(memory_format=torch.channels_last):
            x = x.contiguous()
        return super().forward(x)


class Norm(nn.Module):
    """GroupNorm of each frame alone, so it carries no state; followed by SiLU unless told otherwise.

    x (N, C, H, W) -> same. Image models have 32 groups, video models one: the paper's LayerNorm, as published code
    does it. Training sets `fused` during its forward pass; it then replaces `plain_norm`.
    """

    fused: Normalize | None = None

    def __init__(self, channels: int, groups: int, silu: bool = True):
        super().__init__()
        self.groups, self.silu = groups, silu
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> same."""
        normalize = self.fused or plain_norm
        return normalize(x, self.weight, self.bias, self.groups, self.silu)


class TemporalConv(nn.Module):
    """A causal convolution over time alone, kernel 3. x (B*T, C, H, W) -> y (B*T/stride, D, H, W).

    Its weight is stored (3, D, C): one matrix per tap, oldest first.
    """

    def __init__(self, dim_in: int, dim_out: int, stride: int = 1):
        super().__init__()
        self.stride, self.past = stride, 3 - stride
        bound = (3 * dim_in) ** -0.5
        self.weight = nn.Parameter(torch.empty(3, dim_out, dim_in).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(dim_out).uniform_(-bound, bound))

    def init_state(self, spec: StateSpec, height: int, width: int) -> Tensor:
        """The last input frames, (S, 3 - stride, H, W, C)."""
        return spec.zeros(self.past, height, width, self.weight.shape[2])

    def forward(self, x: Tensor, past: Tensor, clock: Clock) -> tuple[Tensor, Tensor]:
        """x (B*T, C, H, W), past (B, P, H, W, C) -> y (B*T/stride, D, H, W) and the new past."""
        return convolve_time(x, past, clock.started, self.weight, self.bias, self.stride)


class FactorizedConv(nn.Module):
    """1x3x3 in space, then 3x1x1 in time. x (B*T, C, H, W) -> y (B*T, D, H, W)."""

    def __init__(self, dim_in: int, dim_out: int):
        super().__init__()
        self.spatial = SpatialConv(dim_in, dim_out, 3, padding=1)
        self.temporal = TemporalConv(dim_out, dim_out)

    def init_state(self, spec: StateSpec, height: int, width: int) -> Tensor:
        """That of the temporal half, (S, 2, H, W, D)."""
        return self.temporal.init_state(spec, height, width)

    def forward(self, x: Tensor, past: Tensor, clock: Clock) -> tuple[Tensor, Tensor]:
        """x (B*T, C, H, W), past (B, 2, H, W, D) -> y (B*T, D, H, W) and the new past."""
        return self.temporal(self.spatial(x), past, clock)


class _Attention(nn.Module):
    """Single-head attention, scale 1/sqrt(C), no positions, as a residual branch."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.norm = Norm(channels, groups, silu=False)
        self.q, self.k, self.v, self.proj_out = (SpatialConv(channels, channels, 1) for _ in range(4))

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """x (N, C, H, W) -> q, k, v, each (N, H*W, C)."""
        y = self.norm(x)
        return tuple(layer(y).permute(0, 2, 3, 1).flatten(1, 2) for layer in (self.q, self.k, self.v))

    def add(self, x: Tensor, attended: Tensor) -> Tensor:
        """x (N, C, H, W) plus the projection of attended (N, H*W, C)."""
        return x + self.proj_out(attended.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2))


class SpatialAttention(_Attention):
    """Over the places of each frame. x (N, C, H, W) -> same."""

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> same."""
        return self.add(x, attend_over_space(*self.project(x)))


class TemporalAttention(_Attention):
    """Over the last `context` latent steps of each place, causal. x (B*T, C, H, W) -> same."""

    def init_state(self, spec: StateSpec, height: int, width: int) -> dict[str, Tensor]:
        """Rings of keys and values, each (S, H*W, context, C)."""
        shape = (height * width, spec.context, self.q.in_channels)
        return {"key": spec.zeros(*shape), "value": spec.zeros(*shape)}

    def forward(self, x: Tensor, ring: State, clock: Clock) -> tuple[Tensor, State]:
        """x (B*T, C, H, W), ring of (B, H*W, context, C) -> y like x, and the new ring."""
        batch = clock.count.shape[0]
        q, k, v = (part.unflatten(0, (batch, -1)).transpose(1, 2) for part in self.project(x))  # (B, HW, T, C)
        size = ring["key"].shape[2]
        if q.shape[2] == 1 and size:
            keys = {name: _write(ring[name], new, clock) for name, new in (("key", k), ("value", v))}
            mask = torch.arange(size, device=x.device) <= clock.count[:, None]  # all true once the ring is full
            attended = attend_over_time(q, keys["key"], keys["value"], mask[:, None])
        else:
            joined = {name: _join(ring[name], new, clock) for name, new in (("key", k), ("value", v))}
            mask = _band(q.shape[2], size, clock)
            attended = attend_over_time(q, joined["key"], joined["value"], mask)
            keys = {name: _wrap(joined[name], size, clock.count + q.shape[2]) for name in ring}
        return self.add(x, attended.transpose(1, 2).flatten(0, 1)), keys


def _write(ring: Tensor, new: Tensor, clock: Clock) -> Tensor:
    """Put new (B, HW, 1, C) at each slot's own write index, where the entry that just left the context lies.

    In place when no gradients are wanted: attention no longer reads that entry, even if this step is rejected later.
    """
    place = (clock.count % ring.shape[2]).view(-1, 1, 1, 1)
    if torch.is_grad_enabled():
        here = torch.arange(ring.shape[2], device=ring.device).view(1, 1, -1, 1) == place
        return torch.where(here, new, ring)
    index = place.expand(-1, ring.shape[1], 1, ring.shape[3])
    if clock.active is not None:
        new = torch.where(clock.active.view(-1, 1, 1, 1), new, ring.gather(2, index))
    return ring.scatter_(2, index, new)


def _join(ring: Tensor, new: Tensor, clock: Clock) -> Tensor:
    """The ring from oldest to newest, then new: (B, HW, context + T, C)."""
    size = ring.shape[2]
    if not size:
        return new
    order = (clock.count[:, None] + torch.arange(size, device=ring.device)) % size
    return torch.cat([ring.take_along_dim(order.view(-1, 1, size, 1), 2), new], 2)


def _band(steps: int, size: int, clock: Clock) -> Tensor:
    """Which of size + T joined keys each of T queries sees: (B, T, size + T) bool."""
    at = torch.arange(steps, device=clock.count.device)[:, None]
    key = torch.arange(-size, steps, device=clock.count.device)
    near = key <= at
    if clock.context is not None:
        near = near & (at - key < clock.context)
    return near & (clock.count[:, None, None] + key >= 0)


def _wrap(joined: Tensor, size: int, count: Tensor) -> Tensor:
    """The last `size` of the joined keys, each where step s lies in a ring, s % size; count (B,) is after the call."""
    if not size:
        return joined[:, :, :0]
    slots = torch.arange(size, device=count.device)
    step = count[:, None] - 1 - (count[:, None] - 1 - slots) % size  # the newest step that lies at each place
    index = (joined.shape[2] - count[:, None] + step).view(-1, 1, size, 1)
    return joined.take_along_dim(index, 2) * (step >= 0).view(-1, 1, size, 1)


class FactorizedAttention(nn.Module):
    """Over space inside each frame, then over time at each place. x (B*T, C, H, W) -> same."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.spatial = SpatialAttention(channels, groups)
        self.temporal = TemporalAttention(channels, groups)

    def init_state(self, spec: StateSpec, height: int, width: int) -> State:
        """That of the temporal half: its ring of keys and values, (S, ...)."""
        return self.temporal.init_state(spec, height, width)

    def forward(self, x: Tensor, ring: State, clock: Clock) -> tuple[Tensor, State]:
        """x (B*T, C, H, W) -> same, and the new ring."""
        return self.temporal(self.spatial(x), ring, clock)


def repeat_space(x: Tensor) -> Tensor:
    """Each pixel twice along height and width. x (N, C, H, W) -> (N, C, 2H, 2W)."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def pad_far(x: Tensor) -> Tensor:
    """One zero row below and one zero column to the right. x (N, C, H, W) -> (N, C, H+1, W+1)."""
    return F.pad(x, (0, 1, 0, 1))
