"""Finite scalar quantization in one pass: bounds, rounds and packs a latent into one index per position."""

import os

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language import constexpr
from triton.language.extra import libdevice

from streamtok.model.quantizer import FSQTables

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")  # the interpreter has no libdevice


@triton.jit
def _tanh(x):
    if INTERPRETED:
        return 2.0 * tl.sigmoid(2.0 * x) - 1.0
    else:
        return libdevice.tanh(x)


@triton.jit
def _fsq(
    z,
    out,
    half,
    offset,
    shift,
    middle,
    basis,
    places,
    area,
    stride_n,
    stride_c,
    stride_p,
    DIMS: constexpr,
    BLOCK: constexpr,
):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < places
    start = z + (at // area).to(tl.int64) * stride_n + (at % area) * stride_p
    index = tl.zeros((BLOCK,), tl.int32)
    for d in tl.static_range(DIMS):
        value = tl.load(start + d * stride_c, mask=inside, other=0.0).to(tl.float32)
        bounded = _tanh(value + tl.load(shift + d)) * tl.load(half + d) - tl.load(offset + d)
        # adding and subtracting 1.5 * 2^23 rounds half to even, as torch.round does
        rounded = (bounded + 12582912.0) - 12582912.0
        index += (rounded + tl.load(middle + d)).to(tl.int32) * tl.load(basis + d).to(tl.int32)
    tl.store(out + at, index, mask=inside)


def fsq_pack(z: Tensor, tables: FSQTables) -> Tensor:
    """Indices of a latent: z (N, D, h, w) any float, tables in float32 -> (N, h, w) int32.

    ValueError if z has not one channel per level.
    """
    frames, dims, height, width = z.shape
    if dims != len(tables.levels):
        raise ValueError(f"the latent has {dims} channels, the quantizer {len(tables.levels)} levels")
    flat = z.flatten(2)  # a view in both memory formats: positions have one stride
    out = torch.empty(frames, height, width, dtype=torch.int32, device=z.device)
    half, offset, shift, middle, _, basis = tables
    numbers = (out.numel(), height * width, *flat.stride())
    block = {"DIMS": dims, "BLOCK": 256, "num_warps": 4}
    _fsq[(triton.cdiv(out.numel(), 256),)](flat, out, half, offset, shift, middle, basis, *numbers, **block)
    return out
