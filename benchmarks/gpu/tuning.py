"""Times alternative launch options of the heavy layers' kernels on this machine's GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from benchmarks.gpu.parts import Entries, attempt
from streamtok.bench.timing import kernel_ms

if TYPE_CHECKING:
    from benchmarks.gpu.kernels import Case  # needs triton

Candidate = tuple[str, Callable[[], object], float]  # name, launch, TFLOP
TILES = [
    {"ROWS": 128, "COLUMNS": 256, "num_warps": 8, "num_stages": 4},
    {"ROWS": 128, "COLUMNS": 256, "num_warps": 8, "num_stages": 3},
    {"ROWS": 256, "COLUMNS": 128, "num_warps": 8, "num_stages": 4},
    {"ROWS": 128, "COLUMNS": 128, "num_warps": 4, "num_stages": 3},
    {"ROWS": 128, "COLUMNS": 128, "num_warps": 8, "num_stages": 3},
]


def time_candidates(deadline: float = float("inf")) -> Entries:
    """Time the candidates for the heavy layers of the full-size encoder at 720p in bfloat16, in milliseconds.

    None begins after `deadline` (monotonic s).
    """
    from benchmarks.gpu.kernels import Case

    new = Case("cuda", torch.bfloat16)
    for list_candidates in (_list_attention, _list_convolutions, _list_norms):
        for name, launch, tflop in list_candidates(new):
            if time.monotonic() > deadline:
                return
            entry = attempt(partial(kernel_ms, launch))
            entry.pop("ok", None)  # a tile that does not fit is not a failure
            if "value" in entry:
                entry["tflops"] = round(tflop / entry["value"] * 1000, 1)
            yield name, entry


def _list_convolutions(new: Case) -> Iterator[Candidate]:
    from streamtok.engine.gpu.kernels import spatial, temporal

    count = torch.tensor([5], device="cuda")
    for height, width, channels in ((90, 160, 512), (180, 320, 256)):
        x = new(1, channels, height, width).to(memory_format=torch.channels_last)
        weight, bias = new(channels, channels, 3, 3), new(channels)
        kept = weight.to(memory_format=torch.channels_last)
        shape, work = f"{channels}x{height}x{width}", 2 * height * width * channels**2 * 1e-12
        yield f"conv3x3 cudnn {shape}", partial(F.conv2d, x, kept, padding=1), 9 * work
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).contiguous()
        packed, ring = spatial.pack_weight(weight), new(1, 3, height, width, channels)
        taps, residual = new(3, channels, channels), x.clone(memory_format=torch.channels_last)
        for options in TILES:
            name = f"{shape} {'x'.join(map(str, options.values()))}"
            in_space = partial(spatial.conv3x3, padded, packed, bias, ring, count, options)
            in_time = partial(
                temporal.causal_conv, ring, count, taps, bias, 1, residual=residual, want_moments=True, options=options
            )
            yield f"conv3x3 fused {name}", in_space, 9 * work
            yield f"causal_conv {name}", in_time, 3 * work


def _list_attention(new: Case) -> Iterator[Candidate]:
    from streamtok.engine.gpu.kernels import attention, ring_attention

    length, width = 14400, 512
    q, k, v = new(1, length, 3 * width).chunk(3, -1)
    work = 4 * length**2 * width * 1e-12
    yield "attention flash 64x32 s2", partial(attention.flash, q, k, v), work
    yield "attention flash 64x64 s1", partial(attention.flash, q, k, v, columns=64, stages=1), work
    for rows in (3600 // 128 * 128 + 128, 4224, 7296, 14464):
        yield f"attention strips {rows}", partial(attention.strips, q, k, v, rows=rows), work

    def attend_by_parts() -> None:
        for part in q[0].split(1800):
            weights = (part @ k[0].T * width**-0.5).softmax(-1)
            weights @ v[0]

    yield "attention torch, parts of 1800", attend_by_parts, work
    keys, values = (new(1, length, 32, width) for _ in range(2))
    count = torch.tensor([40], device="cuda")
    yield "ring context 32", partial(ring_attention.over_ring, q, k, v, keys, values, count), 0.0


def _list_norms(new: Case) -> Iterator[Candidate]:
    from streamtok.engine.gpu.kernels import norm

    for channels, size in ((256, (180, 320)), (512, (90, 160))):
        x, weight = new(1, channels, *size).to(memory_format=torch.channels_last), new(channels)
        known = norm.moments(x)
        yield f"norm moments {channels}", partial(norm.moments, x), 0.0
        yield f"norm apply {channels}", partial(norm.norm_silu, x, weight, weight, known=known, edge=1), 0.0
