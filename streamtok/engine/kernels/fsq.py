"""Finite scalar quantization with packing: bounded, rounded and joined into one integer per place in one pass."""

import os

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")  # the interpreter has no libdevice


@triton.jit
def _tanh(x):
    if INTERPRETED:
        return 2.0 * tl.sigmoid(2.0 * x) - 1.0
    else:
        return libdevice.tanh(x)


@triton.jit
def _fsq(
    z, out, half, offset, shift, basis, places, area, stride_n, stride_c, stride_p,
    DIMS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < places
    start = z + (at // area).to(tl.int64) * stride_n + (at % area) * stride_p
    index = tl.zeros((BLOCK,), tl.int32)
    for d in tl.static_range(DIMS):
        value = tl.load(start + d * stride_c, mask=inside, other=0.0).to(tl.float32)
        width = tl.load(half + d)
        bounded = _tanh(value + tl.load(shift + d)) * width - tl.load(offset + d)
        # adding and taking away 1.5 * 2^23 rounds half to even, as torch.round does
        rounded = (bounded + 12582912.0) - 12582912.0
        # half = (levels - 1) * 1.001 / 2, so levels // 2 is its rounding up
        middle = tl.floor(width + 0.5)
        index += (rounded + middle).to(tl.int32) * tl.load(basis + d)
    tl.store(out + at, index.to(out.dtype.element_ty), mask=inside)


class FsqTables:
    """What bounds each of the `levels`, on `device`: float32 (D,) half widths, offsets, shifts, and int32 (D,)
    steps."""

    def __init__(self, levels: tuple[int, ...], device: torch.device | str):
        levels_t = torch.tensor(levels, dtype=torch.float32)
        half = (levels_t - 1) * (1 + 1e-3) / 2
        offset = torch.where(levels_t % 2 == 0, 0.5, 0.0)
        steps = torch.cumprod(torch.tensor([1, *levels[:-1]]), 0).to(torch.int32)
        self.levels = tuple(levels)
        self.half, self.offset = half.to(device), offset.to(device)
        self.shift, self.basis = torch.atanh(offset / half).to(device), steps.to(device)


def fsq_pack(z: Tensor, tables: FsqTables, dtype: torch.dtype = torch.int32) -> Tensor:
    """Indices of a latent: z (N, D, h, w) any float -> (N, h, w) of `dtype` (torch.uint16 up to 65,536 codes)."""
    frames, dims, height, width = z.shape
    if dims != len(tables.levels):
        raise ValueError(f"the latent has {dims} channels, the quantizer {len(tables.levels)} levels {tables.levels}")
    flat = z.flatten(2)  # a view for both memory formats: the places have one stride
    out = torch.empty(frames, height, width, dtype=dtype, device=z.device)
    _fsq[(triton.cdiv(out.numel(), 256),)](
        flat, out, tables.half, tables.offset, tables.shift, tables.basis, out.numel(), height * width,
        flat.stride(0), flat.stride(1), flat.stride(2), DIMS=dims, BLOCK=256, num_warps=4,
    )  # fmt: skip
    return out
