"""Decides which job of a fleet runs next, and whether one that failed runs again. No processes."""

import logging
from collections import Counter, deque
from collections.abc import Iterable

from streamtok.fleet.job import Job, Outcome

log = logging.getLogger("streamtok.fleet")


class JobQueue:
    """The jobs of a run that are not settled yet: `running` by name, waiting, or suspected of killing their worker.

    Suspects are the jobs that ran while a worker died. They run alone, to find the one that kills it. A job that fails
    is tried `retries` more times.
    """

    def __init__(self, jobs: Iterable[Job], workers: int, retries: int) -> None:
        # Long drives first, so that no worker is left alone with one at the end.
        self._waiting = deque(sorted(jobs, key=lambda job: (-job.size, job.drive)))
        self._suspects: deque[Job] = deque()
        self.running: dict[str, Job] = {}
        self._workers, self._retries = workers, retries
        self._attempts: Counter[str] = Counter()
        self._alone = False  # whether the running job is a suspect

    def __len__(self) -> int:
        return len(self._waiting) + len(self._suspects) + len(self.running)

    @property
    def size(self) -> int:
        """The bytes of the jobs that wait."""
        return sum(job.size for job in self._waiting)

    def start(self) -> list[Job]:
        """Take out the jobs to start now, as many as there are idle workers."""
        if self._suspects or self._alone:
            started = [self._suspects.popleft()] if self._suspects and not self.running else []
            self._alone = self._alone or bool(started)
        else:
            idle = self._workers - len(self.running)
            started = [self._waiting.popleft() for _ in range(min(idle, len(self._waiting)))]
        self.running |= {job.name: job for job in started}
        return started

    def take(self, outcome: Outcome) -> bool:
        """Take the outcome of a running job; returns whether the job is settled, for otherwise it runs again."""
        job = outcome.job
        del self.running[job.name]
        self._alone = False
        if outcome.record is not None:
            return True
        if outcome.died and not outcome.sure:
            self._suspects.append(job)
            return False
        self._attempts[job.name] += 1
        log.warning("drive=%s attempt=%d error=%r", job.drive, self._attempts[job.name], outcome.error)
        if self._attempts[job.name] > self._retries:
            return True
        (self._suspects if outcome.died else self._waiting).append(job)
        return False
