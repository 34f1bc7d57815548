"""Tokenizes many drives to token files: parallel, resumable, with the same bytes however often it was interrupted.

    from streamtok.fleet.fleet import Fleet, RunOptions
    from streamtok.fleet.job import FleetOptions

    result = Fleet(["a.mcap", "b.mcap"], "tokens", FleetOptions(model="nano"), RunOptions(workers=2)).run()
    print(result["done"], result["broken"])

Every drive becomes a folder of the output, which appears once it is complete. It has a token file per camera and
`drive.json`: the options, the tokenizer and checksums. `manifest.jsonl` lists all drives, done and broken.
"""

import json
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm import tqdm

from streamtok.drives.drive import describe_losses
from streamtok.drives.drive_names import list_drives
from streamtok.fleet.job import FleetOptions, Job, Outcome, find_record, hash_path, load_for_fleet, make_job
from streamtok.fleet.local_runner import LocalRunner
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
        self._attempts: Counter[str] = Counter()
        self._waiting: deque[Job] = deque()
        self._suspects: deque[Job] = deque()
        self._running: dict[str, Job] = {}
        self._alone = self._stopping = False
        self._frames = 0
        self._losses: dict[str, list[str]] = {}  # by drive of this run: lines on what was left out or guessed

    def stop(self) -> None:
        """End the run soon; drives that are done stay done."""
        self._stopping = True

    def run(self) -> dict[str, Any]:
        """Tokenize every drive that is not done; returns counts, and the broken drives with the reason for each."""
        self.store = open_store(self.out)
        self.store.clean()
        started = time.monotonic()
        skipped = self._plan()
        try:
            if self._waiting:
                self._work()
        finally:
            self._save()
            self.store.clean()
        return self._result(skipped, time.monotonic() - started)

    def _plan(self) -> int:
        """Find the drives that are left to do; returns how many are done."""
        fingerprint = load_for_fleet(self.options).fingerprint
        skipped = 0
        for drive in dict.fromkeys(self._list_drives()):
            try:
                job = make_job(drive)
            except (OSError, ValueError, ImportError) as error:
                self._note_broken(drive, str(error))
                continue
            if hash_path(job.drive) % self.run_options.shard[1] != self.run_options.shard[0]:
                continue
            record = find_record(self.store, job, self.options, fingerprint, self.run_options.check)
            if record is None:
                self._waiting.append(job)
            else:
                skipped += 1
                self.manifest[job.drive] = {"status": "done"} | record
        # Long drives first, so that no worker is left alone with one at the end.
        self._waiting = deque(sorted(self._waiting, key=lambda job: (-job.size, job.drive)))
        return skipped

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

    def _work(self) -> None:
        total = sum(job.size for job in self._waiting)
        settled, started = 0, time.monotonic()
        saved = started
        hidden = None if self.run_options.progress else True  # None: shown on a terminal only
        runner = self.make_runner(self.out, self.options, self.run_options.workers)
        with closing(runner), tqdm(None, "tokenize", total, unit="B", unit_scale=True, disable=hidden) as bar:
            while (self._waiting or self._suspects or self._running) and not self._stopping:
                self._submit(runner)
                for outcome in runner.collect(0.2):
                    settled += self._take(outcome)
                self._show(bar, runner.running(), settled, started)
                if time.monotonic() - saved > SAVE_S:
                    self._save()
                    saved = time.monotonic()

    def _submit(self, runner: Runner) -> None:
        """Start jobs on idle workers. Drives that ran while a worker died run alone, to find the one that kills it."""
        if self._suspects or self._alone:
            if not self._running and self._suspects:
                self._alone = True
                self._start(runner, self._suspects.popleft())
            return
        while self._waiting and len(self._running) < self.run_options.workers:
            self._start(runner, self._waiting.popleft())

    def _start(self, runner: Runner, job: Job) -> None:
        self._running[job.name] = job
        runner.submit(job)

    def _take(self, outcome: Outcome) -> int:
        """Note how a job ended; returns its size in bytes if it is settled, 0 if it runs again."""
        job = outcome.job
        del self._running[job.name]
        self._alone = False
        if outcome.record is not None:
            self.manifest[job.drive] = {"status": "done"} | outcome.record
            lines = [*describe_losses(outcome.record["cameras"]), *outcome.record["notes"][:MOST_TOLD]]
            self._losses |= {job.drive: lines} if lines else {}
            self._frames += sum(file.get("frames", 0) for file in outcome.record["files"])
            return job.size
        if outcome.died and not outcome.sure:
            self._suspects.append(job)
            return 0
        self._attempts[job.name] += 1
        log.warning("drive=%s attempt=%d error=%r", job.drive, self._attempts[job.name], outcome.error)
        if self._attempts[job.name] <= self.run_options.retries:
            (self._suspects if outcome.died else self._waiting).append(job)
            return 0
        self._note_broken(job.drive, outcome.error)
        return job.size

    def _show(self, bar: tqdm, running: dict[str, tuple[int, float]], settled: int, started: float) -> None:
        frames = self._frames + sum(count for count, _ in running.values())
        part = sum(self._running[name].size * share for name, (_, share) in running.items() if name in self._running)
        broken = sum(record["status"] == "broken" for record in self.manifest.values())
        left = len(self._waiting) + len(self._suspects) + len(self._running)
        rate = frames / max(1e-9, time.monotonic() - started)
        bar.set_postfix_str(f"{left} drives left, {broken} broken, {frames} frames, {rate:.0f} frames/s", refresh=False)
        bar.update(max(0, min(bar.total, settled + int(part)) - bar.n))

    def _note_broken(self, drive: str, error: str) -> None:
        self.manifest[drive] = {"status": "broken", "drive": drive, "error": error}

    def _save(self) -> None:
        """Write the manifest, sorted, so that its bytes do not depend on the order of completion."""
        index, count = self.run_options.shard
        name = "manifest.jsonl" if count == 1 else f"manifest-{index}-of-{count}.jsonl"
        lines = [json.dumps(self.manifest[drive], sort_keys=True) for drive in sorted(self.manifest)]
        self.store.write(name, "".join(f"{line}\n" for line in lines).encode())

    def _result(self, skipped: int, seconds: float) -> dict[str, Any]:
        broken = {drive: record["error"] for drive, record in self.manifest.items() if record["status"] == "broken"}
        done = sum(record["status"] == "done" for record in self.manifest.values()) - skipped
        return {
            "done": done,
            "skipped": skipped,
            "broken": broken,
            "losses": self._losses,
            "left": len(self._waiting) + len(self._suspects) + len(self._running),
            "frames": self._frames,
            "seconds": round(seconds, 2),
            "fps": round(self._frames / seconds, 2) if seconds else 0.0,
        }
