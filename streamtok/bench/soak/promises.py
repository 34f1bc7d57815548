"""Counts the checks of a soak run by promise, keeps examples of broken ones, and measures the node's resources."""

import os
import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

KEPT_EXAMPLES = 5  # of each broken promise
JUDGED_S = 20.0  # the memory of a node that has run for less is not judged
GROWTH_MB = 24.0  # allowed after the first third of a node's life: allocator slack; a leak in a loop exceeds it
MORE_DESCRIPTORS = 8.0
MORE_THREADS = 4.0
TENTHS = 10
PAGE = os.sysconf("SC_PAGE_SIZE")


class Promises:
    """Counts of checks by promise; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._checked: Counter[str] = Counter()
        self._broken: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = defaultdict(list)

    def check(self, promise: str, kept: bool, words: str = "") -> None:
        """Count one check; `words` say what was found if the promise was not kept."""
        with self._lock:
            self._checked[promise] += 1
            if not kept:
                self._broken[promise] += 1
                if len(self._examples[promise]) < KEPT_EXAMPLES:
                    self._examples[promise].append(words)

    @property
    def broken(self) -> int:
        """The number of checks that failed."""
        with self._lock:
            return self._broken.total()

    def summary(self) -> dict[str, dict[str, Any]]:
        """How often each promise was `checked` and `broken`, and `examples` of broken ones."""
        with self._lock:
            return {
                name: {"checked": count, "broken": self._broken[name], "examples": list(self._examples[name])}
                for name, count in self._checked.items()
            }


@dataclass(frozen=True)
class Usage:
    """Resources of a process at one time: seconds into the run, MB of resident memory, open files, threads."""

    at: float
    memory_mb: float
    descriptors: int
    threads: int


def measure_usage(pid: int, at: float) -> Usage | None:
    """Measure a process now, `at` seconds into the run; None if it is gone."""
    proc = Path(f"/proc/{pid}")
    try:
        pages = int((proc / "statm").read_text().split()[1])
        counts = len(os.listdir(proc / "fd")), len(os.listdir(proc / "task"))
    except OSError:
        return None
    return Usage(at, pages * PAGE / 1e6, *counts)


def judge_growth(promises: Promises, samples: Sequence[Usage]) -> dict[str, float | list[float]]:
    """Check that a process did not grow after the first third of its life; returns the measured figures."""
    if not samples or samples[-1].at - samples[0].at < JUDGED_S:
        return {}
    third = samples[0].at + (samples[-1].at - samples[0].at) / 3
    later = [sample for sample in samples if sample.at >= third]
    times = np.array([sample.at for sample in later])
    slope = float(np.polyfit(times, [sample.memory_mb for sample in later], 1)[0])  # MB per second
    growth = slope * float(times[-1] - times[0])
    files = count_more([sample.descriptors for sample in later])
    threads = count_more([sample.threads for sample in later])
    promises.check("memory stays flat", growth <= GROWTH_MB, f"{growth:.1f} MB more, {60 * slope:.2f} MB a minute")
    promises.check("open files stay flat", files <= MORE_DESCRIPTORS, f"{files:.0f} more")
    promises.check("threads stay flat", threads <= MORE_THREADS, f"{threads:.0f} more")
    return {
        "memory_mb": [round(sample.memory_mb, 1) for sample in samples[:: max(1, len(samples) // TENTHS)]],
        "memory_mb_per_minute": round(60 * slope, 3),
        "descriptors": later[-1].descriptors,
        "threads": later[-1].threads,
    }


def count_more(counts: Sequence[int]) -> float:
    """How much higher the second half of counts is, by lower quartiles, since a flood's connections come and go."""
    half = len(counts) // 2
    return float(np.quantile(counts[half:], 0.25) - np.quantile(counts[: half + 1], 0.25))


def compare_tenths(times: Sequence[float], values: Sequence[float]) -> dict[str, float]:
    """The p99 of the first and of the last tenth of a run; only reported, as other processes share the machine."""
    if len(values) < TENTHS:
        return {}
    tenth = (times[-1] - times[0]) / TENTHS
    first = [value for at, value in zip(times, values, strict=True) if at <= times[0] + tenth]
    last = [value for at, value in zip(times, values, strict=True) if at >= times[-1] - tenth]
    return {
        "first_tenth_p99": round(float(np.quantile(first, 0.99)), 3),
        "last_tenth_p99": round(float(np.quantile(last, 0.99)), 3),
    }
