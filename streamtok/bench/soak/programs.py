"""Commands of this project as processes that can be killed, stopped and begun again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from streamtok.bench.process import child_environment
from streamtok.bench.soak.promises import Sample

END_S = 20.0  # for a process to end on a busy machine, after SIGTERM
PAGE = os.sysconf("SC_PAGE_SIZE")
HANDLES_SIGTERM = 1 << (signal.SIGTERM - 1)


@dataclass
class Program:
    """One command in a process of its own; `arguments` gives those of its n-th start."""

    name: str
    arguments: Callable[[int], list[str]]
    folder: Path
    starts: int = 0
    down: bool = True  # by us: not started yet, killed, or ended
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _log_start: int = 0

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process of the newest start."""
        if self._process is None:
            raise RuntimeError(f"{self.name} has not been started")
        return self._process

    @property
    def log(self) -> Path:
        """Standard error of all starts."""
        return self.folder / f"{self.name}.log"

    @property
    def output(self) -> Path:
        """Standard output of the newest start."""
        return self.folder / f"{self.name}.out"

    def start(self) -> None:
        """Start the command (anew)."""
        command = [sys.executable, "-m", "streamtok.cli", *self.arguments(self.starts)]
        self.starts += 1
        with self.log.open("ab") as log, self.output.open("wb") as output:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                command, env=child_environment(self.folder), stdin=subprocess.DEVNULL, stdout=output, stderr=log
            )
        self.down = False

    def kill(self) -> None:
        """Send SIGKILL and wait until the process is gone."""
        self.down = True
        self.process.kill()
        self.process.wait()

    def end(self) -> int | None:
        """Send SIGTERM; returns the exit status, or None if the process did not end in time and was killed."""
        self.down = True
        self.process.terminate()
        try:
            return self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def has_ended(self) -> bool:
        """Whether the process ended although nobody told it to."""
        return not self.down and self.process.poll() is not None

    def has_logged(self, words: str) -> bool:
        """Whether the newest start has logged some words."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return words.encode() in log.read()

    def takes_signals(self) -> bool:
        """Whether it handles SIGTERM: one that comes before ends it as it ends any program."""
        with suppress(OSError):
            for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
                if line.startswith("SigCgt:"):
                    return bool(int(line.split()[1], 16) & HANDLES_SIGTERM)
        return False

    def last_words(self) -> str:
        """Its exit status and the last lines of its log."""
        lines = self.log.read_text(errors="replace").strip().splitlines()[-3:]
        return f"{self.name} ended with status {self.process.poll()}: " + " / ".join(lines)

    def sample(self, began: float) -> Sample | None:
        """What the process holds now; None if it is gone."""
        place = Path(f"/proc/{self.process.pid}")
        try:
            pages = int((place / "statm").read_text().split()[1])
            counts = len(os.listdir(place / "fd")), len(os.listdir(place / "task"))
        except OSError:
            return None
        return Sample(time.monotonic() - began, pages * PAGE / 1e6, *counts)
