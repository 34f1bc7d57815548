"""How many cameras this machine carries: measured steps against the time that a group may take."""

from collections.abc import Iterator
from typing import Any

from streamtok.bench.measure import measure_decode, measure_latency
from streamtok.bench.options import BenchOptions
from streamtok.model import Tokenizer

SIZES = (128, 224), (256, 448)
GROUPS = 4


def count_cameras(latency: dict[str, Any], decode: dict[str, Any]) -> tuple[float, float, float]:
    """How many cameras can be encoded, decoded, and both, by what `measure_latency` and `measure_decode` found."""
    encoding, both = latency["share_of_group_time"] / latency["cameras"], decode["share_with_encoding"]
    return 1 / encoding, 1 / (both - encoding), 1 / both


def measure_capacities(fast: Tokenizer) -> Iterator[tuple[BenchOptions, tuple[float, float, float]]]:
    """What was run, one camera per step as in a node, and `count_cameras` of it, for each of SIZES.

    It takes a few seconds of a processor that is up to it.
    """
    for size in SIZES:
        options = BenchOptions(size=size, device=fast.device.type, groups=GROUPS)
        step = measure_latency(fast, options)
        yield options, count_cameras(step, measure_decode(fast, options, step))
