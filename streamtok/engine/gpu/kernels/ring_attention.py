"""Temporal attention: each position attends to its own last steps, read in place from the KV ring."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from streamtok.engine.gpu.kernels.attention import base2_scale


@triton.jit
def _ring(
    q,
    k_new,
    v_new,
    keys,
    values,
    count,
    out,
    places,
    stride_q,
    stride_new,
    scale,
    D: tl.constexpr,
    WIDE: tl.constexpr,
    CONTEXT: tl.constexpr,
    STEPS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    taken = tl.load(count + row // places)
    place = taken % CONTEXT
    step, wide = tl.arange(0, STEPS), tl.arange(0, WIDE)
    inside = wide < D
    query = tl.load(q + row * stride_q + wide, mask=inside, other=0.0).to(tl.float32)
    key_now = tl.load(k_new + row * stride_new + wide, mask=inside, other=0.0)
    value_now = tl.load(v_new + row * stride_new + wide, mask=inside, other=0.0)
    seen = (step < CONTEXT) & (step <= taken)
    old = (seen & (step != place))[:, None] & inside[None, :]
    at = row * CONTEXT * D + step[:, None] * D + wide[None, :]
    now = (step == place)[:, None]
    key = tl.where(now, key_now[None, :], tl.load(keys + at, mask=old, other=0.0))
    scores = tl.sum(query[None, :] * key.to(tl.float32), 1) * scale
    scores = tl.where(seen, scores, float("-inf"))
    weights = tl.exp2(scores - tl.max(scores, 0))
    value = tl.where(now, value_now[None, :], tl.load(values + at, mask=old, other=0.0))
    attended = tl.sum(weights[:, None] * value.to(tl.float32), 0) / tl.sum(weights, 0)
    tl.store(out + row * D + wide, attended.to(out.dtype.element_ty), mask=inside)
    # the entry here has just left the context: no step reads it, even if this one is rejected
    tl.store(keys + row * CONTEXT * D + place * D + wide, key_now, mask=inside)
    tl.store(values + row * CONTEXT * D + place * D + wide, value_now, mask=inside)


def over_ring(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, count: Tensor) -> Tensor:
    """Attend to the last steps of each position, and write this step into the ring, in one pass.

    q, k, v (B, HW, C) with one stride per row; keys, values (B, HW, context, C) contiguous, changed in place at
    count % context; count (B,) int64 -> (B, HW, C).
    """
    batch, places, width = q.shape
    context = keys.shape[2]
    out = torch.empty(batch, places, width, dtype=q.dtype, device=q.device)
    numbers = (places, q.stride(1), k.stride(1), base2_scale(width))
    tile = {"D": width, "WIDE": triton.next_power_of_2(width), "CONTEXT": context}
    tile |= {"STEPS": triton.next_power_of_2(context), "num_warps": 4}
    _ring[(batch * places,)](q, k, v, keys, values, count, out, *numbers, **tile)
    return out
