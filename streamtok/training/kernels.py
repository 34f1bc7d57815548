"""The network's arithmetic as training wants it: states in the activations' precision, and fused norms."""

import torch
import torch.nn.functional as F
from torch import Tensor

from streamtok.model.functional import Kernels


class TrainingKernels(Kernels):
    """Under autocast the reference kernels widen temporal states and norms to float32; these do not.

    `compiled` fuses each norm with its activation, forward and backward, through torch.compile.
    """

    def __init__(self, compiled: bool):
        self.fused = torch.compile(_norm, dynamic=True) if compiled else None

    def norm(self, x: Tensor, weight: Tensor, bias: Tensor, groups: int, silu: bool) -> Tensor:
        """As `Kernels.norm`, in x's precision with float32 statistics."""
        if self.fused is None:
            return super().norm(x, weight, bias, groups, silu)
        with torch.autocast(x.device.type, enabled=False):
            return self.fused(x, weight, bias, groups, silu)

    def causal_conv(
        self, x: Tensor, past: Tensor, started: Tensor, weight: Tensor, bias: Tensor, stride: int
    ) -> tuple[Tensor, Tensor]:
        """As `Kernels.causal_conv`, with the past in x's precision."""
        return super().causal_conv(x, past.to(x.dtype), started, weight, bias, stride)


def _norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, silu: bool) -> Tensor:
    wide = x.float().reshape(x.shape[0], groups, -1, *x.shape[2:])
    variance, mean = torch.var_mean(wide, dim=(2, 3, 4), correction=0, keepdim=True)
    y = ((wide - mean) * torch.rsqrt(variance + 1e-6)).reshape(x.shape)
    y = y * weight[:, None, None] + bias[:, None, None]
    return (F.silu(y) if silu else y).to(x.dtype)
