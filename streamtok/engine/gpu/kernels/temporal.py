"""Causal convolution over time as one matrix product that reads past frames in place, from a ring buffer.

Each slot has a ring of P + T frames: P that are kept, and T of a step. Frame f of the stream lies at f % (P + T). New
frames overwrite the T oldest, which no step needs any more, and the product reads all frames from the ring. Nothing is
moved, and no program reads what another writes. A rejected step (inactive slot, latent not finite) is undone by not
advancing the slot's counter.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from streamtok.engine.gpu.kernels.norm import put_moments


@triton.jit
def _causal_conv(
    ring,
    count,
    weight,
    bias,
    residual,
    y,
    moments,
    AREA: tl.constexpr,
    FRAMES: tl.constexpr,
    RING: tl.constexpr,
    TAPS: tl.constexpr,
    CIN: tl.constexpr,
    COUT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_MOMENTS: tl.constexpr,
):
    PAST: tl.constexpr = RING - FRAMES
    BLOCKS: tl.constexpr = (COUT + COLUMNS - 1) // COLUMNS
    STEPS: tl.constexpr = (CIN + STEP - 1) // STEP
    tile, frame = tl.program_id(0), tl.program_id(1)
    slot, t = frame // FRAMES, frame % FRAMES
    start, first = tile // BLOCKS * ROWS, tile % BLOCKS * COLUMNS
    newest = tl.load(count + slot) * FRAMES + t - PAST
    # frames before the first repeat it
    oldest = (slot * RING + (tl.maximum(newest, 0) % RING).to(tl.int32)) * AREA + start
    middle = (slot * RING + (tl.maximum(newest + 1, 0) % RING).to(tl.int32)) * AREA + start
    latest = (slot * RING + (tl.maximum(newest + 2, 0) % RING).to(tl.int32)) * AREA + start

    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for step in tl.range(TAPS * STEPS, loop_unroll_factor=1):
        tap, inner = step // STEPS, step % STEPS * STEP
        row = tl.where(tap == 0, oldest, tl.where(tap == 1, middle, latest))
        # a box that runs past the end of a frame computes rows that are not stored
        a = ring.load([row, inner])
        b = weight.load([tap * COUT + first, inner])
        sums = tl.dot(a, b.T, sums, input_precision="ieee")
    rows = start + tl.arange(0, ROWS)
    columns = first + tl.arange(0, COLUMNS)
    sums += tl.load(bias + tl.minimum(columns, COUT - 1)).to(tl.float32)[None, :]
    inside = (rows < AREA)[:, None] & (columns < COUT)[None, :]
    at = frame.to(tl.int64) * (AREA * COUT) + rows[:, None] * COUT + columns[None, :]
    if HAS_RESIDUAL:
        sums += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    rounded = sums.to(y.dtype.element_ty)
    tl.store(y + at, rounded, mask=inside)
    if HAS_MOMENTS:
        tall = tl.minimum(AREA - start, ROWS)
        broad = tl.minimum(COUT - first, COLUMNS)
        put_moments(
            moments, frame, tile, tl.num_programs(0), (tall * broad).to(tl.float32), rounded.to(tl.float32), inside
        )


def conv_tile(channels_in: int, channels_out: int) -> dict[str, int]:
    """The tile of one program: output rows and columns, and the step along the reduced axis."""
    columns = max(16, min(256, triton.next_power_of_2(channels_out)))
    return {"ROWS": 128, "COLUMNS": columns, "STEP": max(16, min(64, triton.next_power_of_2(channels_in)))}


def causal_conv(
    ring: Tensor,
    count: Tensor,
    weight: Tensor,
    bias: Tensor,
    steps: int,
    *,
    residual: Tensor | None = None,
    want_moments: bool = False,
    options: dict | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Convolve the ring's newest frames over time, add `residual`, and return the result with its moments.

    ring (B, P + T, H, W, C) that holds the T = `steps` new frames, count (B,) int64, weight (K, D, C), bias (D,),
    residual (B*T, D, H, W) channels last -> y like residual, and `norm.moments` of y or None. A fresh slot sees its
    first frame repeated. ValueError unless K is 1 or 3.
    """
    batch, length, height, width, channels = ring.shape
    taps, out_channels, _ = weight.shape
    if taps not in (1, 3):
        raise ValueError(f"the weight has {taps} taps, the kernel takes 1 or 3")
    frames = batch * steps
    tile = {**conv_tile(channels, out_channels), "num_warps": 8, "num_stages": 4, **(options or {})}
    tiles = triton.cdiv(height * width, tile["ROWS"]) * triton.cdiv(out_channels, tile["COLUMNS"])
    y = torch.empty(frames, height, width, out_channels, dtype=ring.dtype, device=ring.device).permute(0, 3, 1, 2)
    known = torch.empty(frames, 3, tiles, dtype=torch.float32, device=ring.device) if want_moments else None
    rows = TensorDescriptor.from_tensor(ring.view(-1, channels), [tile["ROWS"], tile["STEP"]])
    columns = TensorDescriptor.from_tensor(weight.view(-1, channels), [tile["COLUMNS"], tile["STEP"]])
    shape = {"AREA": height * width, "FRAMES": steps, "RING": length, "TAPS": taps}
    shape |= {"CIN": channels, "COUT": out_channels, "HAS_RESIDUAL": residual is not None, "HAS_MOMENTS": want_moments}
    _causal_conv[(tiles, frames)](rows, count, columns, bias, residual, y, known, **shape, **tile)
    return y, known
