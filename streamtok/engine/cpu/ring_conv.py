"""A temporal convolution that never copies its past.

It keeps a ring of three frames, interleaved pixel by pixel: (S, H, W, 3, C), step n at n % 3. A step overwrites the
oldest frame and multiplies the whole ring by a weight whose taps are rotated to match. So nothing is concatenated,
moved or selected. The host knows each slot's step count and picks the weight.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamtok.engine.rings import roll, unroll
from streamtok.model.layers import FactorizedConv
from streamtok.model.state import Clock, StateSpec

TAPS = 3
_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (..., C), weight (D, C), bias (D,) -> (..., D), by oneDNN if PyTorch has it.

    PyTorch's default for float32 is another library, slower on the AMD processors where this was tried.
    """
    if x.dtype is torch.float32 and _ONEDNN:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


class InterleavedConv(nn.Module):
    """`FactorizedConv` for one frame per step. x (B, C, H, W) -> y (B, D, H, W); the past is changed in place."""

    past_frames = 2
    first: Tensor
    second: Tensor
    turned: Tensor

    def __init__(self, conv: FactorizedConv):
        super().__init__()
        self.spatial, self.channels = conv.spatial, conv.temporal.weight.shape[2]
        oldest, middle, newest = conv.temporal.weight.detach()
        wide = conv.temporal.weight.detach().to(torch.promote_types(oldest.dtype, torch.float32))
        both = wide[0] + wide[1]
        self.register_buffer("first", (both + wide[2]).to(oldest.dtype))
        self.register_buffer("second", torch.cat([both.to(oldest.dtype), newest], 1))
        turned = [
            torch.cat([(oldest, middle, newest)[(lie - n - 1) % TAPS] for lie in range(TAPS)], 1) for n in range(TAPS)
        ]
        self.register_buffer("turned", torch.stack(turned))
        self.bias = conv.temporal.bias

    def init_state(self, spec: StateSpec, height: int, width: int) -> Tensor:
        """(S, H, W, 3, C)."""
        return spec.zeros(height, width, TAPS, self.channels)

    def forward(self, x: Tensor, past: Tensor, clock: Clock) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W), past (B, H, W, 3, C) -> y (B, D, H, W) and the same past."""
        frames = self.spatial(x).permute(0, 2, 3, 1)
        parts = []
        for slot, count in enumerate(clock.count.tolist()):
            past[slot, :, :, count % TAPS] = frames[slot]
            if count == 0:
                parts.append(linear(frames[slot], self.first, self.bias))
            elif count == 1:
                parts.append(linear(past[slot, :, :, :2].flatten(2), self.second, self.bias))
            else:
                parts.append(linear(past[slot].flatten(2), self.turned[count % TAPS], self.bias))
        return torch.stack(parts).permute(0, 3, 1, 2) if len(parts) > 1 else parts[0][None].permute(0, 3, 1, 2), past

    def to_plain(self, past: Tensor, count: Tensor) -> Tensor:
        """The ring as the past of a `FactorizedConv`: (S, H, W, 3, C), count (S,) int64 -> (S, 2, H, W, C)."""
        return unroll(past.permute(0, 3, 1, 2, 4), count, self.past_frames)

    def from_plain(self, past: Tensor, count: Tensor) -> Tensor:
        """The inverse of `to_plain`: (S, 2, H, W, C) -> (S, H, W, 3, C)."""
        return roll(past, count, TAPS).permute(0, 2, 3, 1, 4).contiguous()
