"""Measures how many cameras this machine can serve in real time: the time of a step against that of a group."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from streamtok.bench.measure import measure_decode, measure_latency
from streamtok.bench.options import BenchOptions
from streamtok.model import Tokenizer

SIZES = (128, 224), (256, 448)
GROUPS = 4


@dataclass(frozen=True)
class Capacity:
    """How many cameras a machine can encode, decode, or do both with, in real time."""

    encoded: float
    decoded: float
    both: float


def count_cameras(latency: dict[str, Any], decode: dict[str, Any]) -> Capacity:
    """The capacity that the results of `measure_latency` and `measure_decode` show."""
    encoding, both = latency["share_of_group_time"] / latency["cameras"], decode["share_with_encoding"]
    return Capacity(1 / encoding, 1 / (both - encoding), 1 / both)


def measure_capacities(fast: Tokenizer) -> Iterator[tuple[BenchOptions, Capacity]]:
    """Yield, for each of SIZES, the options of a run with one camera per step, as in a node, and the capacity found.

    It takes a few seconds on a processor that is fast enough.
    """
    for size in SIZES:
        options = BenchOptions(size=size, device=fast.device.type, groups=GROUPS)
        step = measure_latency(fast, options)
        yield options, count_cameras(step, measure_decode(fast, options, step))
