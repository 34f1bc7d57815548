"""Transforms uint8 frames to zero-padded Haar bands in the network's precision, in one pass.

Sums and differences of 64 bytes are integers of magnitude below 2^14. They are exact in the float32 accumulator of a
half-precision product with a matrix of plus and minus ones, so only the final conversion rounds.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language import constexpr

CELLS = 64


@triton.jit
def _haar(frames, signs, y, FRAMES: constexpr, HEIGHT: constexpr, WIDTH: constexpr, EDGE: constexpr, CELLS: constexpr):
    TALL: constexpr = HEIGHT // 4 + 2 * EDGE
    BROAD: constexpr = WIDTH // 4 + 2 * EDGE
    GROUPS: constexpr = FRAMES // 4
    group = tl.program_id(1)
    slot, t = group // GROUPS, group % GROUPS
    cell = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    row, column = cell // BROAD - EDGE, cell % BROAD - EDGE
    inside = (row >= 0) & (row < HEIGHT // 4) & (column >= 0) & (column < WIDTH // 4)
    spot, band = tl.arange(0, 64), tl.arange(0, 64)
    apart = (t * 4 + spot // 16) * (HEIGHT * WIDTH) + spot // 4 % 4 * WIDTH + spot % 4
    corner = row * (4 * WIDTH) + column * 4
    matrix = tl.load(signs + spot[:, None] * 64 + band[None, :])
    place = y + (group.to(tl.int64) * (TALL * BROAD) + cell)[:, None] * 192 + band[None, :] * 3
    mean = tl.where(band == 0, 1.0, 0.0)  # [0, 255] becomes [-1, 1]: the shift is in the band of means only
    for colour in tl.static_range(3):
        start = frames + (slot.to(tl.int64) * 3 + colour) * (FRAMES * HEIGHT * WIDTH)
        pixels = tl.load(start + corner[:, None] + apart[None, :], mask=inside[:, None], other=0)
        sums = tl.dot(pixels.to(tl.float16), matrix)
        bands = tl.where(inside[:, None], sums / (64 * 127.5) - mean[None, :], 0.0)
        tl.store(place + colour, bands.to(y.dtype.element_ty), mask=(cell < TALL * BROAD)[:, None])


def haar_bands(frames: Tensor, signs: Tensor, dtype: torch.dtype, edge: int = 0) -> Tensor:
    """uint8 frames (B, 3, G, H, W), G, H and W multiples of 4 -> bands (B*G/4, H/4 + 2e, W/4 + 2e, 192), e = `edge`.

    `signs` (64, 64) float16: plus or minus one, position in the patch by band. `edge`: as in `norm.norm_silu`.
    """
    batch, _, count, height, width = frames.shape
    tall, broad = height // 4 + 2 * edge, width // 4 + 2 * edge
    groups = batch * count // 4
    padded = torch.empty(groups, tall, broad, 192, dtype=dtype, device=frames.device)
    shape = {"FRAMES": count, "HEIGHT": height, "WIDTH": width, "EDGE": edge, "CELLS": CELLS}
    _haar[(triton.cdiv(tall * broad, CELLS), groups)](frames.contiguous(), signs, padded, **shape, num_warps=4)
    return padded
