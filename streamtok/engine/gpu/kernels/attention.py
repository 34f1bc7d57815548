"""Spatial attention with a wide head (512), which the stock flash kernels refuse.

There are two implementations, equal within rounding; the engine configuration chooses by measurement:

- `flash`: one kernel with online softmax, which writes only the output.
- `strips`: a strip of queries at a time. The first kernel writes exp(scores - the block's own maximum) in half
  precision, with each block's maximum and sum. The last one multiplies by the values and rescales as it reads.
  Extra memory is one strip.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

STRIP_BYTES = 256 << 20


@triton.jit
def _flash(
    q,
    k,
    v,
    out,
    stride_q,
    stride_k,
    stride_v,
    frame_q,
    frame_k,
    frame_v,
    scale,
    LENGTH: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    frame = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns, wide = tl.arange(0, COLUMNS), tl.arange(0, D)
    there = rows < LENGTH
    queries = tl.load(q + frame * frame_q + rows[:, None] * stride_q + wide[None, :], mask=there[:, None], other=0.0)
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    sums = tl.zeros((ROWS, D), tl.float32)
    for start in range(0, LENGTH, COLUMNS):
        seen = start + columns < LENGTH
        keys = tl.load(
            k + frame * frame_k + (start + columns)[None, :] * stride_k + wide[:, None], mask=seen[None, :], other=0.0
        )
        scores = tl.dot(queries, keys) * scale
        scores = tl.where(seen[None, :], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp2(scores - new_top[:, None])
        shrink = tl.exp2(top - new_top)
        total = total * shrink + tl.sum(weights, 1)
        values = tl.load(
            v + frame * frame_v + (start + columns)[:, None] * stride_v + wide[None, :], mask=seen[:, None], other=0.0
        )
        sums = tl.dot(weights.to(values.dtype), values, sums * shrink[:, None])
        top = new_top
    sums = sums / total[:, None]
    place = out + frame * LENGTH * D + rows[:, None] * D + wide[None, :]
    tl.store(place, sums.to(out.dtype.element_ty), mask=there[:, None])


@triton.jit
def _strip_scores(
    q,
    k,
    p,
    tops,
    totals,
    first,
    count,
    scale,
    LENGTH: tl.constexpr,
    BLOCKS: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
):
    block, start = tl.program_id(1), tl.program_id(0) * ROWS
    scores = tl.zeros((ROWS, COLUMNS), tl.float32)
    for inner in tl.range(0, D, STEP, loop_unroll_factor=1):
        a = q.load([first + start, inner])
        b = k.load([block * COLUMNS, inner])
        scores = tl.dot(a, b.T, scores, input_precision="ieee")
    rows, columns = start + tl.arange(0, ROWS), block * COLUMNS + tl.arange(0, COLUMNS)
    scores = tl.where((columns < LENGTH)[None, :], scores * scale, float("-inf"))
    top = tl.max(scores, 1)
    weights = tl.exp2(scores - top[:, None]).to(p.dtype.element_ty)
    there = rows < count
    tl.store(p + rows[:, None].to(tl.int64) * (BLOCKS * COLUMNS) + columns[None, :], weights, mask=there[:, None])
    tl.store(tops + rows * BLOCKS + block, top, mask=there)
    tl.store(totals + rows * BLOCKS + block, tl.sum(weights.to(tl.float32), 1), mask=there)


@triton.jit
def _strip_factors(tops, totals, blocks, BLOCKS: tl.constexpr):
    """Turn each block's maximum into the factor that makes the row sum to one; in place, one program per row."""
    row, block = tl.program_id(0), tl.arange(0, BLOCKS)
    there = block < blocks
    top = tl.load(tops + row * blocks + block, mask=there, other=float("-inf"))
    total = tl.load(totals + row * blocks + block, mask=there, other=0.0)
    factor = tl.exp2(top - tl.max(top, 0))
    tl.store(tops + row * blocks + block, factor / tl.sum(factor * total, 0), mask=there)


@triton.jit
def _strip_values(
    p,
    v,
    out,
    factors,
    count,
    BLOCKS: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    WIDE: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
):
    start, first = tl.program_id(1) * ROWS, tl.program_id(0) * WIDE
    rows = start + tl.arange(0, ROWS)
    at = factors + tl.minimum(rows, count - 1) * BLOCKS
    sums = tl.zeros((ROWS, WIDE), tl.float32)
    for column in tl.range(0, BLOCKS * COLUMNS, STEP, loop_unroll_factor=1):
        factor = tl.load(at + column // COLUMNS)
        a = p.load([start, column])
        b = v.load([column, first])  # past the end both operands are zero
        a = (a.to(tl.float32) * factor[:, None]).to(a.dtype)
        sums = tl.dot(a, b, sums, input_precision="ieee")
    place = out + rows[:, None].to(tl.int64) * D + (first + tl.arange(0, WIDE))[None, :]
    tl.store(place, sums.to(out.dtype.element_ty), mask=(rows < count)[:, None])


def base2_scale(width: int) -> float:
    """log2(e) / sqrt(width): scores scaled by it go through exp2, which is faster than exp."""
    return width**-0.5 * math.log2(math.e)


def flash(
    q: Tensor, k: Tensor, v: Tensor, rows: int = 64, columns: int = 32, warps: int = 8, stages: int = 2
) -> Tensor:
    """softmax(q k^T / sqrt(C)) v: q, k, v (N, L, C), last axis contiguous, C a power of two -> (N, L, C) contiguous."""
    frames, length, width = q.shape
    out = torch.empty(frames, length, width, dtype=q.dtype, device=q.device)
    strides = [x.stride(axis) for axis in (1, 0) for x in (q, k, v)]
    tile = {"LENGTH": length, "D": width, "ROWS": rows, "COLUMNS": columns, "num_warps": warps, "num_stages": stages}
    _flash[(triton.cdiv(length, rows), frames)](q, k, v, out, *strides, base2_scale(width), **tile)
    return out


def strip_rows(length: int, columns: int = 256) -> int:
    """Queries per strip, so that its half-precision weights take STRIP_BYTES at most; strips are equal, of 128 k."""
    most = max(128, STRIP_BYTES // (2 * triton.cdiv(length, columns) * columns) // 128 * 128)
    return triton.cdiv(triton.cdiv(length, triton.cdiv(length, most)), 128) * 128


def strips(q: Tensor, k: Tensor, v: Tensor, rows: int | None = None, tile: tuple[int, int] = (128, 256)) -> Tensor:
    """softmax(q k^T / sqrt(C)) v, `rows` queries at a time: (N, L, C), as `flash`."""
    frames, length, width = q.shape
    tall, columns = tile
    rows = rows or strip_rows(length, columns)
    blocks, wide, step = triton.cdiv(length, columns), min(256, width), min(64, width, columns)
    out = torch.empty(frames, length, width, dtype=q.dtype, device=q.device)
    p = torch.empty(rows, blocks * columns, dtype=q.dtype, device=q.device)
    weights = TensorDescriptor.from_tensor(p, [tall, step])
    tops, totals = torch.empty(2, rows, blocks, dtype=torch.float32, device=q.device)
    tiles = {"BLOCKS": blocks, "D": width, "ROWS": tall, "COLUMNS": columns, "STEP": step}
    tiles |= {"num_warps": 8, "num_stages": 4}
    scale = base2_scale(width)
    for frame in range(frames):
        queries, keys = (TensorDescriptor.from_tensor(x[frame], [n, step]) for x, n in ((q, tall), (k, columns)))
        values = TensorDescriptor.from_tensor(v[frame], [step, wide])
        for first in range(0, length, rows):
            count = min(rows, length - first)
            strip = triton.cdiv(count, tall)
            _strip_scores[(strip, blocks)](queries, keys, p, tops, totals, first, count, scale, LENGTH=length, **tiles)
            _strip_factors[(count,)](tops, totals, blocks, BLOCKS=triton.next_power_of_2(blocks), num_warps=1)
            _strip_values[(triton.cdiv(width, wide), strip)](
                weights, values, out[frame, first:], tops, count, WIDE=wide, **tiles
            )
    return out
