"""Plans a fleet: workers, storage, failures and cost of many hours of video, from a measurement on this machine."""

import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from streamtok.fleet.job import find_record, make_job, run_job
from streamtok.fleet.local_runner import limit_threads, name_shared_memory
from streamtok.fleet.model import FleetOptions, load_for_fleet
from streamtok.fleet.store import open_store
from streamtok.io.picture_writer import open_pictures
from streamtok.io.source import open_source

SAMPLE_FRAMES = 150
CHECKS = 200
SOURCE_SIZE = (720, 1280)
DRIVE_MINUTES = 20.0
HOURS_BETWEEN_FAILURES = 24.0


@dataclass
class FleetPlan:
    """The figures of one plan; rates are of one worker. `measured`: `frames_per_second` was measured, not given.

    `check_seconds` is the time to find that one drive is done, on a local disk. `price` is that of a worker-hour,
    without storage and transfer. Derived figures are attributes too; `worker_hours` includes work lost to failures.
    """

    hours: float
    fps: float
    frames_per_second: float
    measured: bool
    token_bytes_per_hour: float
    check_seconds: float
    price: float
    drive_minutes: float = DRIVE_MINUTES
    hours_between_failures: float = HOURS_BETWEEN_FAILURES

    def __post_init__(self) -> None:
        self.times_real_time = self.frames_per_second / self.fps
        self.drives = max(1, round(self.hours * 60 / self.drive_minutes))
        # The share of the work that is done twice: a worker that fails loses half a drive on average.
        self.lost_share = self.drive_minutes / 60 / self.times_real_time / 2 / self.hours_between_failures
        self.worker_hours = self.hours / self.times_real_time * (1 + self.lost_share)
        self.storage_bytes = self.hours * self.token_bytes_per_hour
        self.cost = self.worker_hours * self.price

    def report(self) -> str:
        """The plan as lines of text."""
        origin = "measured here" if self.measured else "given"
        failures = self.worker_hours / self.hours_between_failures
        lines = [
            f"video            {self.hours:,.0f} hours at {self.fps:g} frames per second, {self.drives:,} drives of "
            f"{self.drive_minutes:g} minutes",
            f"one worker       {self.frames_per_second:,.1f} frames per second ({origin}), {self.times_real_time:.2f} "
            "times real time",
            f"work             {self.worker_hours:,.0f} worker-hours, {self.worker_hours / 720:,.1f} workers for 30 d",
            f"storage          {self.storage_bytes / 1e12:,.2f} TB of token files, "
            f"{self.token_bytes_per_hour / 1e6:,.1f} MB per hour of video",
            f"failures         {failures:,.0f} at one per worker in {self.hours_between_failures:g} hours, "
            f"{100 * self.lost_share:.2f} % of the work done twice",
            f"starting again   {self.drives * self.check_seconds:,.0f} s to see what is done, on a local disk",
            f"cost             {self.cost:,.0f} at {self.price:g} per worker-hour, storage and transfer apart",
        ]
        return "\n".join(lines)


def plan(hours: float, options: FleetOptions, fps: float, rate: float | None, price: float) -> FleetPlan:
    """Measure a worker on a short synthetic drive and scale it up; `rate`, if given, replaces its frames per second.

    ValueError, before anything is measured, unless all are above 0; `price` may be 0.
    """
    if not (hours > 0 and fps > 0 and price >= 0 and (rate is None or rate > 0)):
        given = f"hours={hours}, fps={fps}, rate={rate}, price={price}"
        raise ValueError(f"a plan with {given}: expected more than 0 (price: 0 or more)")
    # In a spawned process, like a worker: libraries fix their number of threads when they load.
    with name_shared_memory():
        pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    with limit_threads(options.threads), pool:
        rates = pool.submit(measure_worker, options, fps).result()
    rates |= {"frames_per_second": round(rate or rates["frames_per_second"], 2)}
    return FleetPlan(hours, fps, measured=rate is None, price=price, **rates)


def measure_worker(options: FleetOptions, fps: float) -> dict[str, float]:
    """Measure one worker on a synthetic drive of 720x1280: the rates of a `FleetPlan` by name.

    On a CPU the clock is CPU time, so that other processes on the machine do not count.
    """
    tok = load_for_fleet(options)
    with tempfile.TemporaryDirectory(prefix="streamtok-plan-") as folder:
        video = Path(folder) / "sample.mp4"
        pictures = open_pictures(video, SOURCE_SIZE, fps)
        height, width = SOURCE_SIZE
        with open_source(f"synthetic:{height}x{width}@{fps:g}?seed=1&frames={SAMPLE_FRAMES}") as frames:
            for index, frame in enumerate(frames):
                pictures.write(frame.image, round(index / fps * 1e9))
        pictures.close()
        job = make_job(str(video))
        run_job(job, str(Path(folder) / "first"), options, tok)  # the first run warms up
        clock = time.perf_counter if next(tok.parameters()).is_cuda else time.process_time
        start = clock()
        record = run_job(job, str(Path(folder) / "second"), options, tok)
        seconds = clock() - start
        start, store = time.process_time(), open_store(str(Path(folder) / "second"))
        for _ in range(CHECKS):
            find_record(store, job, options, tok.fingerprint, check=False)
        check = (time.process_time() - start) / CHECKS
    done = sum(file["frames"] for file in record["files"])
    size = sum(file["bytes"] for file in record["files"])
    rates = {"frames_per_second": done / seconds, "token_bytes_per_hour": size / done * fps * 3600}
    return rates | {"check_seconds": check}
