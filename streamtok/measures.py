"""Measures that several packages report, each defined once: PSNR, entropy, quantiles. Needs only numpy."""

import math
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

Item = TypeVar("Item")
PSNR_CEILING = 100.0  # dB reported for identical pictures, so that means stay finite
QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
KEPT = 4096  # latest samples of a stage: enough for a p99, few enough to sort at each scrape


def psnr_from_mse(mse: float) -> float:
    """PSNR in dB of a mean squared error on the 0..1 scale; identical pictures give 100."""
    return PSNR_CEILING if mse <= 10 ** (-PSNR_CEILING / 10) else -10 * math.log10(mse)


def entropy_bits(counts: np.ndarray) -> float:
    """Entropy in bits of a histogram (n,); 0 for an empty one."""
    seen = counts[counts > 0]
    share = seen / seen.sum()
    return float(max(0.0, -(share * np.log2(share)).sum()))


class LatestSamples:
    """The latest `KEPT` durations of one stage, in seconds, with `count` and `total` of all that were added."""

    def __init__(self) -> None:
        self._samples = np.zeros(KEPT)
        self.count = 0
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Add one sample."""
        self._samples[self.count % len(self._samples)] = seconds
        self.count += 1
        self.total += seconds

    @property
    def samples(self) -> np.ndarray:
        """The samples that are kept, float64 (n,), unordered."""
        return self._samples[: min(self.count, len(self._samples))]

    def quantiles(self) -> dict[str, float]:
        return quantiles(self.samples)


class EvenSample(Generic[Item]):
    """Keeps items evenly spread over a sequence of unknown length: all up to `most`, then at least half as many."""

    def __init__(self, most: int) -> None:
        self.kept: list[Item] = []
        self._most, self._every, self._seen = most, 1, 0

    def add(self, item: Item) -> None:
        """Offer the next item."""
        if self._seen % self._every == 0:
            self.kept.append(item)
        self._seen += 1
        if len(self.kept) > self._most:
            self.kept, self._every = self.kept[::2], 2 * self._every


def time_least(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """The shortest of five runs of `work`, in seconds of `clock`."""
    spent = []
    for _ in range(5):
        began = clock()
        work()
        spent.append(clock() - began)
    return min(spent)


def quantiles(samples: np.ndarray) -> dict[str, float]:
    """{"p50": ..., "p95": ..., "p99": ...} of samples (n,); empty if there are none."""
    if not samples.size:
        return {}
    return dict(zip(QUANTILES, np.quantile(samples, list(QUANTILES.values())).tolist(), strict=True))
