"""Runs a fleet's jobs on this machine: a pool of processes, each with its own model."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from ctypes import c_byte
from functools import partial
from multiprocessing.queues import SimpleQueue
from typing import ClassVar

from streamtok.fleet.job import Job, Outcome, Stopped, try_job
from streamtok.fleet.model import FleetOptions, load_for_fleet

REPORT_S = 0.5
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
Reports = SimpleQueue  # of (a job's name, its frames so far, the share of the job)
GRACE_S = 0.4  # for running jobs to see that they should stop


class LocalRunner:
    """Runs jobs in spawned processes, which end when this one does, even by SIGKILL. If one dies, the pool restarts."""

    def __init__(self, out: str, options: FleetOptions, workers: int) -> None:
        self._out, self._options, self._workers = out, options, workers
        self._context = multiprocessing.get_context("spawn")
        self._running: dict[Future, Job] = {}
        self._progress: dict[str, tuple[int, float]] = {}
        self._others = set(self._context.active_children())
        self._limits = ExitStack()
        self._limits.enter_context(limit_threads(options.threads))
        self._open()

    def submit(self, job: Job) -> None:
        """Start a job; the caller keeps to `workers` at a time."""
        self._running[self._pool.submit(_run_in_worker, job)] = job

    def collect(self, timeout: float) -> list[Outcome]:
        """Return the jobs that ended; waits for one for at most `timeout` seconds."""
        done, _ = wait(self._running, timeout, FIRST_COMPLETED)
        while not self._reports.empty():
            name, frames, share = self._reports.get()
            self._progress[name] = frames, share
        if any(isinstance(future.exception(), BrokenProcessPool) for future in done):
            return self._restart()
        return [self._take(future) for future in done]

    def running(self) -> dict[str, tuple[int, float]]:
        """The running jobs by name: frames so far, and the share that is done (0..1)."""
        names = {job.name for job in self._running.values()}
        return {name: progress for name, progress in self._progress.items() if name in names}

    def close(self) -> None:
        """End the workers; busy ones are killed after `GRACE_S`."""
        if self._running:
            self._stop.value = 1
            wait(self._running, GRACE_S)
            workers = set(self._context.active_children()) - self._others
            for process in workers:
                process.kill()
            for process in workers:
                process.join()
        # If workers were killed, do not wait for the pool's threads: on a busy machine they take seconds to end.
        self._pool.shutdown(wait=not self._running, cancel_futures=True)
        self._limits.close()

    def _open(self) -> None:
        # The flag has no lock, so that a worker that is stopped or killed while it reads it cannot block `close`.
        with name_shared_memory():
            self._reports, self._stop = self._context.SimpleQueue(), self._context.RawValue("b", 0)
            shared = (os.getpid(), self._out, self._options, self._reports, self._stop)
            self._pool = ProcessPoolExecutor(self._workers, self._context, _Worker, shared)

    def _take(self, future: Future) -> Outcome:
        del self._running[future]
        return future.result()

    def _restart(self) -> list[Outcome]:
        """Start a new pool after a worker died, which ends every job; the culprit is sure only if it ran alone."""
        ended = [future for future in self._running if future.done()]
        finished = [future for future in ended if not isinstance(future.exception(), BrokenProcessPool)]
        outcomes = [self._take(future) for future in finished]
        sure = len(self._running) == 1
        error = "its worker's process died (killed, out of memory or a crash in native code)"
        outcomes += [Outcome(job, None, error, died=True, sure=sure) for job in self._running.values()]
        self._running = {}
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._open()
        return outcomes


@contextmanager
def name_shared_memory() -> Iterator[None]:
    """Let an error of the system while a pool is opened name the folder where processes share locks."""
    try:
        yield
    except OSError as error:
        hint = "workers share locks there; mount it, or give it room (docker run --shm-size)"
        raise OSError(error.errno, f"{error.strerror}, {hint}", "/dev/shm") from error


@contextmanager
def limit_threads(threads: int) -> Iterator[None]:
    """Set how many threads processes compute with that are started inside a `with` block.

    Libraries read these variables when they load, before any of our code runs in a worker. With a thread per core in
    each of many workers, most of the time would be lost to contention.
    """
    before = {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    try:
        yield
    finally:
        for name in THREAD_VARIABLES:
            os.environ.pop(name, None)
        os.environ.update(before)


class _Worker:
    """The state of a worker process: its model, and its channel to the parent."""

    current: ClassVar[_Worker]

    def __init__(self, parent: int, out: str, options: FleetOptions, reports: Reports, stop: c_byte) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets Ctrl-C too, and tells its workers
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
        self._out, self._options, self._reports, self._stop = out, options, reports, stop
        self._tok, self._reported = load_for_fleet(options), 0.0
        _Worker.current = self

    def run(self, job: Job) -> Outcome:
        """Tokenize a drive; raises `Stopped` once the parent has set the flag."""
        if self._stop.value:
            raise Stopped
        return try_job(job, self._out, self._options, self._tok, partial(self._report, job.name))

    def _report(self, name: str, frames: int, share: float) -> bool:
        if time.monotonic() - self._reported > REPORT_S:
            self._reported = time.monotonic()
            self._reports.put((name, frames, share))
        return not self._stop.value


def _end_with(parent: int) -> None:
    """Exit once the parent is gone, for nobody would collect the outcome."""
    while os.getppid() == parent:
        time.sleep(REPORT_S)
    os._exit(1)


def _run_in_worker(job: Job) -> Outcome:
    return _Worker.current.run(job)
