"""The arithmetic of layers that takes more than one call of PyTorch; `layers` calls it.

Images are (N, C, H, W) in channels-last memory; state and keys are (..., C) contiguous. So either becomes the other
without a copy.
"""

import math
from collections.abc import Callable
from functools import cache, wraps
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

ELEMENTS = {4: torch.int32, 8: torch.int64, 16: torch.complex128}  # by bytes, to move values in

Made = TypeVar("Made")
Normalize = Callable[[Tensor, Tensor, Tensor, int, bool], Tensor]


def keep_constants(make: Callable[..., Made]) -> Callable[..., Made]:
    """Keep what `make` returns for ever: a captured step may not copy it from the host, and keeps reading it."""
    kept = cache(torch.inference_mode(False)(make))  # it may take part in a later backward pass

    @wraps(make)
    def get(*key: object) -> Made:
        if torch.compiler.is_dynamo_compiling():  # `make` becomes part of the graph
            return make(*key)
        if not torch.compiler.is_compiling():
            return kept(*key)
        with _disable_current_modes():  # of torch.export, whose fake tensors would stay in the cache
            return kept(*key)

    return get


def permute_rows(x: Tensor, *order: int) -> Tensor:
    """`x.permute(*order)`, contiguous; the last axis stays last.

    A copy takes time by elements, so up to 16 bytes of a row move as one, where neither gradients nor graphs follow.
    """
    width = math.gcd(x.shape[-1] * x.itemsize, 16)
    if width not in ELEMENTS or not x.is_cpu or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return x.permute(order).contiguous()
    x = x.contiguous()
    if x.storage_offset() or x.data_ptr() % width:
        x = x.clone()  # elements are aligned
    wide = x.view(-1).view(ELEMENTS[width])  # flat: an axis of length 1 may have any stride, which that view refuses
    shape = *x.shape[:-1], x.shape[-1] * x.itemsize // width
    return wide.view(shape).permute(order).contiguous().view(x.dtype)


def plain_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, silu: bool) -> Tensor:
    """GroupNorm of each frame, eps 1e-6, then SiLU if `silu`. x (N, C, H, W), weight and bias (C,) -> like x."""
    y = F.group_norm(x, groups, weight, bias, eps=1e-6)
    return F.silu(y) if silu else y


def convolve_time(
    x: Tensor, past: Tensor, started: Tensor, weight: Tensor, bias: Tensor, stride: int
) -> tuple[Tensor, Tensor]:
    """Causal convolution over time, as one matrix product per tap.

    Half precisions would round between the products, so they use one product over the concatenated taps.

    x (B*T, C, H, W), past (B, P, H, W, C) with P = K - stride, started (B,) bool, weight (K, D, C), bias (D,)
    -> y (B*T/stride, D, H, W) and the new past, the last P frames. Slots that have not started see their first frame
    repeated. The new past has the precision of x, which autocast may lower.
    """
    batch = past.shape[0]
    frames = x.permute(0, 2, 3, 1).unflatten(0, (batch, -1))
    fresh = ~started.view(-1, 1, 1, 1, 1)
    joined = torch.cat([torch.where(fresh, frames[:, :1], past.to(x.dtype)), frames], 1)
    steps = frames.shape[1] // stride
    taken = [joined[:, k : k + (steps - 1) * stride + 1 : stride] for k in range(len(weight))]
    if x.dtype in (torch.float32, torch.float64):
        rows = [frame.flatten(0, -2) for frame in taken]
        y = torch.addmm(bias, rows[0], weight[0].T)
        for row, tap in zip(rows[1:], weight[1:], strict=True):
            y = y.addmm_(row, tap.T)
    else:
        y = F.linear(torch.cat(taken, -1), weight.permute(1, 0, 2).flatten(1), bias)
    y = y.view(batch * steps, *x.shape[2:], -1)
    return y.permute(0, 3, 1, 2), joined[:, joined.shape[1] - past.shape[1] :]


def attend_over_space(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every position of a frame attends to all positions of that frame. q, k, v (N, H*W, C) -> (N, H*W, C)."""
    # PyTorch's memory-efficient kernels need an axis for heads, and contiguous channels.
    q, k, v = (part[:, None].contiguous() for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v)[:, 0]


def attend_over_time(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Every position attends to its own past: q (B, HW, T, C), k, v (B, HW, L, C), mask (B, T, L) bool -> like q."""
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return scores.masked_fill(~mask[:, None], -torch.inf).softmax(-1) @ v
