"""Measures how many cameras this machine can serve in real time: the time of a step against that of a group."""

from collections.abc import Iterator
from typing import Any

from streamtok.bench.measure import measure_decode, measure_latency
from streamtok.bench.options import BenchOptions
from streamtok.model import Tokenizer

SIZES = (128, 224), (256, 448)
GROUPS = 4


def count_cameras(latency: dict[str, Any], decode: dict[str, Any]) -> tuple[float, float, float]:
    """Cameras that can be encoded, decoded, and both, from the results of `measure_latency` and `measure_decode`."""
    encoding, both = latency["share_of_group_time"] / latency["cameras"], decode["share_with_encoding"]
    return 1 / encoding, 1 / (both - encoding), 1 / both


def measure_capacities(fast: Tokenizer) -> Iterator[tuple[BenchOptions, tuple[float, float, float]]]:
    """Yield, for each of SIZES, the options of a run with one camera per step, as in a node, and its `count_cameras`.

    It takes a few seconds on a processor that is fast enough.
    """
    for size in SIZES:
        options = BenchOptions(size=size, device=fast.device.type, groups=GROUPS)
        step = measure_latency(fast, options)
        yield options, count_cameras(step, measure_decode(fast, options, step))
