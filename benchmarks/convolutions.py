"""Compares direct and Winograd 3x3 convolutions of a step: CPU milliseconds by shape, alternating, and the error.

    python benchmarks/convolutions.py --threads 1
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 python benchmarks/convolutions.py

The variables make a processor with AVX-512 run the code of one without. Between calls 24 MB are read, to evict caches
as the rest of a step would. `gain` is C * D / (C + D), compared with `streamtok.engine.cpu.winograd.WIDE`.
"""

import argparse
import statistics
import sys
from collections import Counter

import torch
import torch.nn.functional as F
from torch import nn

import streamtok
from streamtok.bench.timing import time_calls
from streamtok.engine.cpu.winograd import WinogradConv
from streamtok.names import parse_size
from streamtok.weights.golden import reference_clip


def list_convolutions(name: str, size: tuple[int, int]) -> Counter[tuple[int, int, int, int]]:
    """Count the 3x3 convolutions of a step and its decoding by shape (C, D, H, W)."""
    tok = streamtok.load(name)
    found: Counter[tuple[int, int, int, int]] = Counter()
    stream, decoder = tok.stream(1, *size), tok.decode_stream(1, *tok.config.grid(*size))
    for module in tok.modules():
        if isinstance(module, nn.Conv2d) and (module.kernel_size, module.stride) == ((3, 3), (1, 1)):
            module.register_forward_pre_hook(
                lambda conv, x: found.update([(conv.in_channels, conv.out_channels, *x[0].shape[-2:])] * len(x[0]))
            )
    decoder.step(stream.step(reference_clip(1, *size)).tokens)
    return found


def compare(channels: int, wide: int, height: int, width: int, rounds: int) -> tuple[float, float, float]:
    """Median milliseconds of the direct and of the Winograd convolution, and the latter's largest error."""
    conv = nn.Conv2d(channels, wide, 3, padding=1).to(memory_format=torch.channels_last)
    x = torch.randn(1, channels, height, width).to(memory_format=torch.channels_last)
    kinds, junk, times = (conv, WinogradConv(conv)), torch.ones(6 << 20), ([], [])
    for _ in range(rounds):
        for kind, busy in zip(kinds, times, strict=True):
            junk.sum()
            busy += time_calls(lambda _, kind=kind: kind(x), 1)[1]
    exact = F.conv2d(x.double(), conv.weight.double(), None if conv.bias is None else conv.bias.double(), padding=1)
    error = float((kinds[1](x) - exact).abs().max())
    return statistics.median(times[0]), statistics.median(times[1]), error


def main(argv: list[str] | None = None) -> int:
    """Print one line per shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--size", type=parse_size, default=(256, 448), metavar="HxW")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    for (channels, wide, height, width), times in sorted(list_convolutions(arguments.model, arguments.size).items()):
        direct, found, error = compare(channels, wide, height, width, arguments.rounds)
        shape, gain = f"{channels} to {wide} at {height}x{width}", channels * wide / (channels + wide)
        ratio = f"{direct:8.2f} {found:8.2f} ms, {found / direct:.2f}"
        print(f"{shape:<24} {times} times {ratio}; gain {gain:3.0f}; error {error:.0e}", flush=True)
    return 0


if __name__ == "__main__":
    with torch.no_grad():
        sys.exit(main())
