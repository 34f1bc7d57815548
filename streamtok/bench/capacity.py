"""How many cameras of which size this machine carries: measured steps against the time that a group may take."""

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
    """What one size (height, width) takes, in ms per group, and how many cameras at `fps` that leaves room for."""

    size: tuple[int, int]
    fps: float
    encode_ms: float
    decode_ms: float
    cameras_encoded: float
    cameras_decoded: float
    cameras_both: float

    def __str__(self) -> str:
        height, width = self.size
        return (
            f"{height}x{width} at {self.fps:g} fps: {self.cameras_encoded:.1f} cameras encoded, "
            f"{self.cameras_decoded:.1f} decoded, {self.cameras_both:.1f} both"
        )


def count_cameras(latency: dict[str, Any], decode: dict[str, Any]) -> tuple[float, float, float]:
    """How many cameras can be encoded, decoded, and both, by what `measure_latency` and `measure_decode` found."""
    encoding, both = latency["share_of_group_time"] / latency["cameras"], decode["share_with_encoding"]
    return 1 / encoding, 1 / (both - encoding), 1 / both


def measure_capacity(fast: Tokenizer, options: BenchOptions) -> Capacity:
    """Time the encoder and the decoder of one camera per step, as a node runs them, at the options' size and rate."""
    step = measure_latency(fast, options)
    decode = measure_decode(fast, options, step)
    return Capacity(options.size, options.fps, step["p50_ms"], decode["p50_ms"], *count_cameras(step, decode))


def measure_capacities(fast: Tokenizer) -> Iterator[Capacity]:
    """The capacity at 30 frames per second for each of SIZES, in a few seconds of a processor that is up to it."""
    for size in SIZES:
        yield measure_capacity(fast, BenchOptions(size=size, device=fast.device.type, groups=GROUPS))
