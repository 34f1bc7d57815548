"""Runs a fleet's jobs on a Ray cluster: actors, each with its own model and its share of a GPU."""

from collections import deque
from typing import Any

from streamtok.extras import needs_extra
from streamtok.fleet.job import Job, Outcome, try_job
from streamtok.fleet.model import FleetOptions, load_for_fleet


class RayRunner:
    """Runs jobs on `workers` actors with `gpus` GPUs each (a fraction lets actors share one).

    Joins the cluster that RAY_ADDRESS names, or starts Ray on this machine. Drives and output must be readable from
    every node: URLs, or a shared disk.
    """

    def __init__(self, out: str, options: FleetOptions, workers: int, gpus: float = 0.0) -> None:
        self._ray = import_ray()
        if not self._ray.is_initialized():
            self._ray.init(ignore_reinit_error=True, include_dashboard=False, log_to_driver=False)
        kind = self._ray.remote(_Worker)
        self._new = lambda: kind.options(num_gpus=gpus, num_cpus=options.threads).remote(out, options)
        self._idle: deque[Any] = deque(self._new() for _ in range(workers))
        self._running: dict[Any, tuple[Job, Any]] = {}

    def submit(self, job: Job) -> None:
        """As `LocalRunner.submit`."""
        actor = self._idle.popleft()
        self._running[actor.run.remote(job)] = job, actor

    def collect(self, timeout: float) -> list[Outcome]:
        """As `LocalRunner.collect`."""
        if not self._running:
            return []
        done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=timeout)
        return [self._outcome(reference) for reference in done]

    def running(self) -> dict[str, tuple[int, float]]:
        """Empty: actors do not report before they are done."""
        return {}

    def close(self) -> None:
        """End the actors."""
        for actor in [*self._idle, *(actor for _, actor in self._running.values())]:
            self._ray.kill(actor)

    def _outcome(self, reference: Any) -> Outcome:
        job, actor = self._running.pop(reference)
        try:
            outcome: Outcome = self._ray.get(reference)
        except self._ray.exceptions.RayActorError as problem:
            self._idle.append(self._new())
            return Outcome(job, None, f"its actor died: {str(problem).splitlines()[0]}", died=True)
        self._idle.append(actor)
        return outcome


class _Worker:
    """The class of the actors: loads the model once, then runs jobs."""

    def __init__(self, out: str, options: FleetOptions) -> None:
        self._out, self._options, self._tok = out, options, load_for_fleet(options)

    def run(self, job: Job) -> Outcome:
        return try_job(job, self._out, self._options, self._tok)


def import_ray() -> Any:
    """Import Ray; raises ImportError that says how to install it."""
    with needs_extra("--runner ray", "fleet"):
        import ray
    return ray
