"""3x3 convolution as a matrix product over rows of a zero-padded image, loaded by Hopper's Tensor Memory Accelerator.

The image is stored as (H + 2, W + 2, C). So each of the nine taps reads the same run of pixels shifted by a constant,
as plain two-dimensional boxes without gathering. Results at the two padding pixels of each line are computed but not
stored. The output can go straight into the ring of a following temporal convolution.
"""

import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from streamtok.engine.gpu.kernels.temporal import conv_tile


@triton.jit
def _conv3x3(
    x,
    weight,
    bias,
    y,
    count,
    FRAMES: tl.constexpr,
    RING: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CIN: tl.constexpr,
    COUT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
):
    BROAD: tl.constexpr = WIDTH + 2
    BLOCKS: tl.constexpr = (COUT + COLUMNS - 1) // COLUMNS
    STEPS: tl.constexpr = (CIN + STEP - 1) // STEP
    tile, frame = tl.program_id(0), tl.program_id(1)
    start, first = tile // BLOCKS * ROWS, tile % BLOCKS * COLUMNS
    corner = frame * (HEIGHT + 2) * BROAD + start

    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for step in tl.range(9 * STEPS, loop_unroll_factor=1):
        tap, inner = step // STEPS, step % STEPS * STEP
        a = x.load([corner + tap // 3 * BROAD + tap % 3, inner])
        b = weight.load([tap * COUT + first, inner])
        sums = tl.dot(a, b.T, sums, input_precision="ieee")

    at = start + tl.arange(0, ROWS)
    row, column = at // BROAD, at % BROAD
    columns = first + tl.arange(0, COLUMNS)
    sums += tl.load(bias + tl.minimum(columns, COUT - 1)).to(tl.float32)[None, :]
    inside = ((row < HEIGHT) & (column < WIDTH))[:, None] & (columns < COUT)[None, :]
    if RING:
        slot, t = frame // FRAMES, frame % FRAMES
        place = slot.to(tl.int64) * RING + (tl.load(count + slot) * FRAMES + t) % RING
    else:
        place = frame.to(tl.int64)
    y += place * (HEIGHT * WIDTH * COUT)
    tl.store(y + (row * WIDTH + column)[:, None] * COUT + columns[None, :], sums.to(y.dtype.element_ty), mask=inside)


def pack_weight(weight: Tensor) -> Tensor:
    """A 3x3 weight (D, C, 3, 3) as the kernel reads it: (9 * D, C), tap by tap."""
    return weight.detach().permute(2, 3, 0, 1).reshape(-1, weight.shape[1]).contiguous()


def conv3x3(
    padded: Tensor,
    packed: Tensor,
    bias: Tensor,
    ring: Tensor | None = None,
    count: Tensor | None = None,
    options: dict | None = None,
) -> Tensor:
    """3x3 convolution, stride 1, zero padding 1, of frames or into a ring.

    padded (B*T, H + 2, W + 2, C) with zero edges, packed (9 * D, C), bias (D,), ring (B, P + T, H, W, D) changed in
    place with count (B,) int64 -> y (B*T, D, H, W) channels last, or the ring. C is a multiple of 16.
    """
    frames, tall, broad, channels = padded.shape
    height, width, out_channels = tall - 2, broad - 2, bias.shape[0]
    tile = {**conv_tile(channels, out_channels), "num_warps": 8, "num_stages": 4, **(options or {})}
    tiles = triton.cdiv(height * broad, tile["ROWS"]) * triton.cdiv(out_channels, tile["COLUMNS"])
    y = ring if ring is not None else padded.new_empty(frames, height, width, out_channels)
    rows = TensorDescriptor.from_tensor(padded.view(-1, channels), [tile["ROWS"], tile["STEP"]])
    columns = TensorDescriptor.from_tensor(packed, [tile["COLUMNS"], tile["STEP"]])
    shape = {"FRAMES": 1 if count is None else frames // count.shape[0], "RING": 0 if ring is None else ring.shape[1]}
    shape |= {"HEIGHT": height, "WIDTH": width, "CIN": channels, "COUT": out_channels}
    _conv3x3[(tiles, frames)](rows, columns, bias, y, count, **shape, **tile)
    return y.permute(0, 3, 1, 2) if ring is None else ring
