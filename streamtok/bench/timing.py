"""Times calls one by one, and on a GPU by replays of a captured graph, which leave out the host's launch overhead."""

import statistics
import time
from collections.abc import Callable

import torch

ROUNDS = 5


def percentiles(values: list[float]) -> dict[str, float]:
    """The median, p99, mean and count of a list of milliseconds."""
    ordered = sorted(values)
    at = min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))
    middle, mean = statistics.median(ordered), statistics.fmean(ordered)
    return {"p50_ms": middle, "p99_ms": ordered[at], "mean_ms": mean, "count": len(ordered)}


def kernel_ms(function: Callable[[], object], repeat: int = 10) -> float:
    """Median milliseconds of one call on the GPU, from a graph of `repeat` calls that is replayed ROUNDS times."""
    function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeat):
            function()
    graph.replay()
    times = []
    for _ in range(ROUNDS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / repeat)
    return statistics.median(times)


def time_calls(
    function: Callable[[int], object], count: int, device: str = "cpu", warm_up: int = 0
) -> tuple[list[float], list[float]]:
    """Wall-clock and CPU milliseconds (of all threads) of each of `count` calls, the device's work included.

    `function` gets the number of the call; `warm_up` calls come first, with numbers below 0, and are not returned.
    """
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    walls, busy = [], []
    for i in range(-warm_up, count):
        wait()
        begin, begin_busy = time.perf_counter(), time.process_time()
        function(i)
        wait()
        walls.append(1000 * (time.perf_counter() - begin))
        busy.append(1000 * (time.process_time() - begin_busy))
    return walls[warm_up:], busy[warm_up:]
