"""Compares direct and NNPACK's 3x3 convolutions, alternating: by shape, and in whole steps.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/convolutions.py --threads 2
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 python benchmarks/convolutions.py

The first variable makes threads wait as those of a node do; the others make a processor with AVX-512 run the code of
one without. Shapes are compared in CPU milliseconds. Between calls 24 MB are read, to evict caches as the rest of a
step would. `gain` is C * D / (C + D), compared with `streamtok.engine.cpu.nnpack.WIDE`. Steps and decoding are
compared in wall-clock milliseconds.
"""

import argparse
import statistics
import sys
from collections import Counter
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

import streamtok
from streamtok.bench.timing import time_calls
from streamtok.config import PRESETS
from streamtok.engine.configuration import EngineConfiguration
from streamtok.engine.cpu.nnpack import NnpackConv
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
    """Median milliseconds of the direct and of the NNPACK convolution, and the latter's largest error."""
    conv = nn.Conv2d(channels, wide, 3, padding=1).to(memory_format=torch.channels_last)
    x = torch.randn(1, channels, height, width).to(memory_format=torch.channels_last)
    kinds, junk, times = (conv, NnpackConv(conv)), torch.ones(6 << 20), ([], [])
    for _ in range(rounds):
        for kind, busy in zip(kinds, times, strict=True):
            junk.sum()
            busy += time_calls(lambda _, kind=kind: kind(x), 1)[1]
    exact = F.conv2d(x.double(), conv.weight.double(), None if conv.bias is None else conv.bias.double(), padding=1)
    error = float((kinds[1](x) - exact).abs().max())
    return statistics.median(times[0]), statistics.median(times[1]), error


def compare_steps(name: str, size: tuple[int, int], rounds: int) -> dict[str, tuple[float, float]]:
    """Median wall-clock milliseconds of a group's step and of its decoding, direct and by NNPACK."""
    steps: dict[str, list[Callable[[int], object]]] = {"step": [], "decoding": []}
    group = reference_clip(1 + PRESETS[name].temporal_compression, *size)[:, :, 1:]
    for kind in ("direct", "nnpack"):
        engine = EngineConfiguration(kernels="interleaved", convolutions=kind)
        tok = streamtok.load(name, engine=engine)
        stream, decoder = tok.stream(1, *size), tok.decode_stream(1, *tok.config.grid(*size))
        decoder.step(stream.step(group[:, :, :1]).tokens)
        tokens = stream.step(group).tokens
        steps["step"].append(lambda _, stream=stream: stream.step(group))
        steps["decoding"].append(lambda _, decoder=decoder, tokens=tokens: decoder.step(tokens))
    return {what: time_alternating(pair, rounds) for what, pair in steps.items()}


def time_alternating(pair: list[Callable[[int], object]], rounds: int) -> tuple[float, float]:
    """Median wall-clock milliseconds of two functions that take turns."""
    walls = [[time_calls(function, 1)[0][0] for function in pair] for _ in range(rounds)]
    first, second = (statistics.median(times) for times in zip(*walls, strict=True))
    return first, second


def main(argv: list[str] | None = None) -> int:
    """Print one line per shape, then one for the step and one for its decoding."""
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
    for what, (direct, found) in compare_steps(arguments.model, arguments.size, arguments.rounds).items():
        print(f"{arguments.model}, {what:<33} {direct:8.2f} {found:8.2f} ms, {found / direct:.2f}", flush=True)
    return 0


if __name__ == "__main__":
    with torch.no_grad():
        sys.exit(main())
