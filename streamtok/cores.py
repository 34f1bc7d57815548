"""The processor cores that this process may use. PyTorch heeds its affinity, but not the CPU quota of a container."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import PurePosixPath


def count_cores() -> int:
    """Whole cores that this process may use, by its affinity and its CPU quota; 1 at least."""
    return max(1, int(min([_count_by_affinity(), *read_quotas()])))


def heed_quota() -> None:
    """Let PyTorch, if it is not imported yet, have no more threads than the quota has cores.

    With more, they use up the quota together, and the kernel stops all of them until its next period of 100 ms.
    """
    if (cores := count_cores()) < _count_by_affinity():
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))


def read_quotas(groups: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> Iterator[float]:
    """The CPU quotas, in cores, of this process's control groups (Linux, version 1 or 2) and of those around them.

    `groups` is where control groups are mounted, and the file `own` lists those of this process.
    """
    for line in _read(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, names = groups, ["cpu.max"]
        elif "cpu" in controllers.split(","):
            top, names = f"{groups}/cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        for folder in (PurePosixPath(path), *PurePosixPath(path).parents):
            words = " ".join(_read(f"{top}{folder}/{name}") for name in names).split()
            if len(words) == 2 and words[0].isdecimal():  # neither "max" nor -1
                yield int(words[0]) / int(words[1])


def _count_by_affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read(path: str) -> str:
    with suppress(OSError), open(path) as file:
        return file.read()
    return ""
