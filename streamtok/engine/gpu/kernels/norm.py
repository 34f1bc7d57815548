"""GroupNorm with one group per frame, and SiLU, in two passes over channels-last memory.

The first pass leaves (count, mean, sum of squared deviations) of each piece of a frame. A kernel that already holds the
frame's values in registers can leave the same instead (see `temporal`), which saves that pass. The second merges the
pieces in a fixed order, so the result does not depend on timing, and applies weight, bias and SiLU.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

PIECE = 16384  # values of a frame that one program reduces: 32 per thread of 16 warps, four 16-byte loads
SMALL_PIECE = 2048
EPS = 1e-6


@triton.jit
def put_moments(moments, frame, piece, pieces, count, values, inside):
    """Write count, mean and sum of squared deviations of `values` where `inside` to (frames, 3, pieces)."""
    mean = tl.sum(tl.where(inside, values, 0.0)) / count
    apart = tl.where(inside, values - mean, 0.0)
    place = moments + frame * 3 * pieces + piece
    tl.store(place, count)
    tl.store(place + pieces, mean)
    tl.store(place + 2 * pieces, tl.sum(apart * apart))


@triton.jit
def _moments(x, moments, size, pieces, PIECE: tl.constexpr):
    frame, piece = tl.program_id(1), tl.program_id(0)
    at = piece * PIECE + tl.arange(0, PIECE)
    inside = at < size
    values = tl.load(x + frame.to(tl.int64) * size + at, mask=inside, other=0.0).to(tl.float32)
    count = tl.minimum(size - piece * PIECE, PIECE).to(tl.float32)
    put_moments(moments, frame, piece, pieces, count, values, inside)


@triton.jit
def _apply(
    x,
    y,
    moments,
    weight,
    bias,
    pieces,
    eps,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    EDGE: tl.constexpr,
    PIECES: tl.constexpr,
    PIECE: tl.constexpr,
    SILU: tl.constexpr,
):
    BROAD: tl.constexpr = WIDTH + 2 * EDGE
    SIZE: tl.constexpr = (HEIGHT + 2 * EDGE) * BROAD * CHANNELS
    frame, piece = tl.program_id(1), tl.program_id(0)
    one = tl.arange(0, PIECES)
    there = one < pieces
    place = moments + frame * 3 * pieces + one
    counts = tl.load(place, mask=there, other=0.0)
    means = tl.load(place + pieces, mask=there, other=0.0)
    squares = tl.load(place + 2 * pieces, mask=there, other=0.0)
    total = tl.sum(counts)
    mean = tl.sum(counts * means) / total
    apart = tl.where(there, means - mean, 0.0)
    variance = (tl.sum(squares) + tl.sum(counts * apart * apart)) / total
    scale = 1.0 / tl.sqrt(variance + eps)

    at = piece * PIECE + tl.arange(0, PIECE)
    pixel, channel = at // CHANNELS, at % CHANNELS
    row, column = pixel // BROAD - EDGE, pixel % BROAD - EDGE
    inside = (row >= 0) & (row < HEIGHT) & (column >= 0) & (column < WIDTH)
    values = tl.load(
        x + frame.to(tl.int64) * (HEIGHT * WIDTH * CHANNELS) + (row * WIDTH + column) * CHANNELS + channel,
        mask=inside,
        other=0.0,
    ).to(tl.float32)
    values = (values - mean) * scale * tl.load(weight + channel).to(tl.float32) + tl.load(bias + channel).to(tl.float32)
    if SILU:
        values = values * tl.sigmoid(values)
    values = tl.where(inside, values, 0.0).to(y.dtype.element_ty)
    tl.store(y + frame.to(tl.int64) * SIZE + at, values, mask=at < SIZE)


def _piece(size: int) -> int:
    return PIECE if size >= 64 * PIECE else SMALL_PIECE


def moments(x: Tensor) -> Tensor:
    """Partial moments of each frame: x (N, C, H, W) channels last -> float32 (N, 3, pieces), as the module says."""
    frames, size = x.shape[0], x[0].numel()
    piece = _piece(size)
    pieces = triton.cdiv(size, piece)
    out = torch.empty(frames, 3, pieces, dtype=torch.float32, device=x.device)
    _moments[(pieces, frames)](x, out, size, pieces, PIECE=piece, num_warps=16 if piece == PIECE else 4)
    return out


def norm_silu(
    x: Tensor, weight: Tensor, bias: Tensor, silu: bool = True, known: Tensor | None = None, edge: int = 0
) -> Tensor:
    """GroupNorm over all of each frame, then SiLU: x (N, C, H, W) channels last -> (N, H + 2e, W + 2e, C), same dtype.

    Sums are float32 whatever the dtype. `known`: `moments(x)` if another kernel has computed it already.
    `edge`, e: the zeros to pad the result with on each side.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    frames, channels, height, width = x.shape
    known = moments(x) if known is None else known
    pieces, piece = known.shape[2], _piece(x[0].numel())
    padded = torch.empty(frames, height + 2 * edge, width + 2 * edge, channels, dtype=x.dtype, device=x.device)
    shape = {"HEIGHT": height, "WIDTH": width, "CHANNELS": channels, "EDGE": edge, "SILU": silu}
    tile = {"PIECES": triton.next_power_of_2(pieces), "PIECE": piece, "num_warps": 16 if piece == PIECE else 4}
    grid = (triton.cdiv(padded[0].numel(), piece), frames)
    _apply[grid](x, padded, known, weight, bias, pieces, EPS, **shape, **tile)
    return padded
