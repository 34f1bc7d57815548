"""Tokenizes many drives to token files: parallel, resumable, with the same bytes however often it was interrupted.

    from streamtok.fleet.fleet import Fleet, RunOptions
    from streamtok.fleet.model import FleetOptions

    result = Fleet(["a.mcap", "b.mcap"], "tokens", FleetOptions(model="nano"), RunOptions(workers=2)).run()
    print(result["done"], result["broken"])

Every drive becomes a folder of the output, which appears once it is complete. It has a token file per camera and
`drive.json`: the options, the tokenizer and checksums. `manifest.jsonl` lists all drives, done and broken.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm import tqdm

from streamtok.drives.drive import describe_losses
from streamtok.drives.drive_names import list_drives
from streamtok.fleet.job import Job, Outcome, find_record, hash_path, make_job
from streamtok.fleet.job_queue import JobQueue
from streamtok.fleet.local_runner import LocalRunner
from streamtok.fleet.model import FleetOptions, load_for_fleet
from streamtok.fleet.options import RunOptions
from streamtok.fleet.ray_runner import RayRunner
from streamtok.fleet.store import open_store
from streamtok.names import is_url
from streamtok.recording.parts import leave_out_copies

log = logging.getLogger("streamtok.fleet")

MOST_TOLD = 5  # notes of a drive in the summary of a run; its drive.json has more
SAVE_S = 60.0  # between two writes of the manifest during a run


Runner = LocalRunner | RayRunner


class Fleet:
    """One run over `drives` (paths and URLs) into the folder or URL `out`.

    `make_runner(out, options, workers)` makes the runner of the jobs (default: processes on this machine). `stop` may
    be called from a signal handler.
    """

    def __init__(
        self,
        drives: Sequence[str],
        out: str,
        options: FleetOptions,
        run: RunOptions | None = None,
        make_runner: Callable[[str, FleetOptions, int], Runner] | None = None,
    ) -> None:
        self.out = out if is_url(out) else str(Path(out).resolve())
        self.drives, self.options = drives, options
        self.run_options = run or RunOptions()
        self.make_runner = make_runner or LocalRunner
        self.manifest: dict[str, dict[str, Any]] = {}
        self._stopping = False
        self._skipped = self._frames = 0
        self._losses: dict[str, list[str]] = {}  # by drive of this run: lines on what was left out or guessed

    def stop(self) -> None:
        """End the run soon; drives that are done stay done."""
        self._stopping = True

    def run(self) -> dict[str, Any]:
        """Tokenize every drive that is not done; returns counts, and the broken drives with the reason for each."""
        self.store = open_store(self.out)
        self.store.clean()
        self._skipped, self._frames, self._losses = 0, 0, {}
        started = time.monotonic()
        queue = JobQueue(self._find_jobs(), self.run_options.workers, self.run_options.retries)
        try:
            if queue:
                self._work(queue)
        finally:
            self._save()
            self.store.clean()
        return self._result(len(queue), time.monotonic() - started)

    def _find_jobs(self) -> Iterator[Job]:
        """Yield the jobs that are left to do; those that are done go into the manifest, and are counted."""
        fingerprint, (index, count) = load_for_fleet(self.options).fingerprint, self.run_options.shard
        for drive in dict.fromkeys(self._list_drives()):
            try:
                job = make_job(drive)
            except (OSError, ValueError, ImportError) as error:
                self._note_broken(drive, str(error))
                continue
            if hash_path(job.drive) % count != index:
                continue
            record = find_record(self.store, job, self.options, fingerprint, self.run_options.check)
            if record is None:
                yield job
            else:
                self._skipped += 1
                self.manifest[job.drive] = {"status": "done"} | record

    def _list_drives(self) -> Iterator[str]:
        """The drives that were given; a folder of several separate drives yields each of them."""
        kept = set(leave_out_copies([Path(drive) for drive in self.drives]).paths)
        for drive in self.drives:
            if is_url(drive):
                yield drive
            elif Path(drive) not in kept:
                log.info("drive=%s event=left_out reason='the one that was repaired of it is given too'", drive)
            else:
                try:
                    yield from list_drives(drive)
                except (OSError, ValueError, ImportError) as error:
                    self._note_broken(drive, str(error))

    def _work(self, queue: JobQueue) -> None:
        total, settled, started = queue.size, 0, time.monotonic()
        saved = started
        hidden = self.run_options.quiet or None  # None: shown on a terminal only
        runner = self.make_runner(self.out, self.options, self.run_options.workers)
        with closing(runner), tqdm(None, "tokenize", total, unit="B", unit_scale=True, disable=hidden) as bar:
            while queue and not self._stopping:
                for job in queue.start():
                    runner.submit(job)
                for outcome in runner.collect(0.2):
                    if queue.take(outcome):
                        self._note(outcome)
                        settled += outcome.job.size
                self._show(bar, queue, runner.running(), settled, started)
                if time.monotonic() - saved > SAVE_S:
                    self._save()
                    saved = time.monotonic()

    def _note(self, outcome: Outcome) -> None:
        """Enter a settled drive into the manifest, and count what it gave."""
        drive, record = outcome.job.drive, outcome.record
        if record is None:
            self._note_broken(drive, outcome.error)
            return
        self.manifest[drive] = {"status": "done"} | record
        lines = [*describe_losses(record["cameras"]), *record["notes"][:MOST_TOLD]]
        self._losses |= {drive: lines} if lines else {}
        self._frames += sum(file.get("frames", 0) for file in record["files"])

    def _show(
        self, bar: tqdm, queue: JobQueue, running: dict[str, tuple[int, float]], settled: int, started: float
    ) -> None:
        frames = self._frames + sum(count for count, _ in running.values())
        part = sum(queue.running[name].size * share for name, (_, share) in running.items() if name in queue.running)
        broken = sum(record["status"] == "broken" for record in self.manifest.values())
        rate = frames / max(1e-9, time.monotonic() - started)
        told = f"{len(queue)} drives left, {broken} broken, {frames} frames, {rate:.0f} frames/s"
        bar.set_postfix_str(told, refresh=False)
        bar.update(max(0, min(bar.total, settled + int(part)) - bar.n))

    def _note_broken(self, drive: str, error: str) -> None:
        self.manifest[drive] = {"status": "broken", "drive": drive, "error": error}

    def _save(self) -> None:
        """Write the manifest, sorted, so that its bytes do not depend on the order of completion."""
        index, count = self.run_options.shard
        name = "manifest.jsonl" if count == 1 else f"manifest-{index}-of-{count}.jsonl"
        lines = [json.dumps(self.manifest[drive], sort_keys=True) for drive in sorted(self.manifest)]
        self.store.write(name, "".join(f"{line}\n" for line in lines).encode())

    def _result(self, left: int, seconds: float) -> dict[str, Any]:
        broken = {drive: record["error"] for drive, record in self.manifest.items() if record["status"] == "broken"}
        done = sum(record["status"] == "done" for record in self.manifest.values()) - self._skipped
        return {
            "done": done,
            "skipped": self._skipped,
            "broken": broken,
            "losses": self._losses,
            "left": left,
            "frames": self._frames,
            "seconds": round(seconds, 2),
            "fps": round(self._frames / seconds, 2) if seconds else 0.0,
        }
