"""Figures that several reports give, each with one definition; they need numpy alone."""

import math

import numpy as np

PSNR_CEILING = 100.0  # dB reported for identical pictures, so that means stay finite
QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
GAP_STEPS = 1.75  # usual steps: what comes later follows a gap, for one image or grid that is missing makes it two
# Usual steps after which images that nothing numbers count as lost. That starts an epoch, so it has to be sure: a
# camera that is throttled to two images of three steps by one and by two.
LOST_STEPS = 2.5
KEPT = 4096  # latest samples of a stage: enough for a p99, small enough to sort at each scrape


def psnr_from_mse(mse: float) -> float:
    """Decibels of a mean squared error on the 0..1 scale; identical pictures give 100."""
    return PSNR_CEILING if mse <= 10 ** (-PSNR_CEILING / 10) else -10 * math.log10(mse)


def entropy_bits(counts: np.ndarray) -> float:
    """Entropy of a histogram in bits; 0 for an empty one."""
    seen = counts[counts > 0]
    share = seen / seen.sum()
    return float(max(0.0, -(share * np.log2(share)).sum()))


def usual_step(times: np.ndarray) -> float:
    """The median of the steps between `times` (n,), in their unit; 0 if there are none."""
    return float(np.median(np.diff(times))) if len(times) > 1 else 0.0


def find_time_jumps(times: np.ndarray) -> np.ndarray:
    """(n,) bool: the first of `times` (n,), and those after more than `GAP_STEPS` usual steps or a step back."""
    steps = np.diff(times)
    return np.concatenate([[True], (steps > GAP_STEPS * usual_step(times)) | (steps <= 0)])


class LatestSamples:
    """The latest `KEPT` durations of one stage, in seconds, and how many there were."""

    def __init__(self, size: int = KEPT) -> None:
        self._samples = np.zeros(size)
        self.count = 0
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self._samples[self.count % len(self._samples)] = seconds
        self.count += 1
        self.total += seconds

    @property
    def samples(self) -> np.ndarray:
        """Those that are kept, in no order."""
        return self._samples[: min(self.count, len(self._samples))]

    def quantiles(self) -> dict[str, float]:
        return quantiles(self.samples)


def quantiles(samples: np.ndarray) -> dict[str, float]:
    """{"p50": ..., "p95": ..., "p99": ...} of some samples; empty if there are none."""
    if not samples.size:
        return {}
    return dict(zip(QUANTILES, np.quantile(samples, list(QUANTILES.values())).tolist(), strict=True))
