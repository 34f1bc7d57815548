"""Runs streamtok commands in processes of their own, as users do, to measure, kill and restart them."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from streamtok.checkpoint import WEIGHTS, save
from streamtok.model import Tokenizer

LIMIT_S = 600.0  # of a run: a first start measures every precision, and compiles on a GPU
END_S = 20.0  # from SIGTERM until a process on a busy machine has ended
ROOT = Path(__file__).resolve().parents[2]
HANDLES_SIGTERM = 1 << (signal.SIGTERM - 1)


@dataclass
class Program:
    """One command in a process of its own. `arguments(n)` gives those of start n, from 0; `folder` has its cache.

    `process` is that of the newest start.
    """

    name: str
    arguments: Callable[[int], list[str]]
    folder: Path
    starts: int = 0
    down: bool = True  # intentionally: not started yet, killed, or told to end
    process: subprocess.Popen[bytes] = field(init=False, repr=False)
    _log_start: int = 0

    @property
    def log(self) -> Path:
        """Standard error of all starts."""
        return self.folder / f"{self.name}.log"

    @property
    def output(self) -> Path:
        """Standard output of the newest start."""
        return self.folder / f"{self.name}.out"

    def start(self) -> None:
        """Start or restart the command."""
        command = [sys.executable, "-m", "streamtok.cli", *self.arguments(self.starts)]
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = os.environ | {"STREAMTOK_CACHE": str(self.folder / "cache"), "PYTHONPATH": paths}
        self.starts += 1
        with self.log.open("ab") as log, self.output.open("wb") as output:
            self._log_start = log.tell()
            closed = subprocess.DEVNULL
            self.process = subprocess.Popen(command, env=environment, stdin=closed, stdout=output, stderr=log)
        self.down = False

    def kill(self) -> None:
        """Send SIGKILL and wait until the process is gone."""
        self.down = True
        self.process.kill()
        self.process.wait()

    def end(self) -> int | None:
        """Send SIGTERM; returns the exit status, or None if the process did not end in time and was killed."""
        self.down = True
        self.process.terminate()  # does nothing to a process that has ended
        try:
            return self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def check_running(self) -> None:
        """Raise RuntimeError with the end of its log if the process has ended."""
        if self.process.poll() is not None:
            raise RuntimeError(self.last_words())

    def wait_for(self, socket: Path) -> None:
        """Wait until the process has bound `socket`: a reader that connects earlier retries at growing intervals."""
        while not socket.exists():
            self.check_running()
            time.sleep(0.001)

    def has_ended(self) -> bool:
        """Whether the process ended by itself, neither killed nor told to end."""
        return not self.down and self.process.poll() is not None

    def has_logged(self, words: str) -> bool:
        """Whether the log of the newest start contains `words`."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return words.encode() in log.read()

    def takes_signals(self) -> bool:
        """Whether the process has installed its SIGTERM handler; before that, SIGTERM kills it like any program."""
        with suppress(OSError):
            for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
                if line.startswith("SigCgt:"):
                    return bool(int(line.split()[1], 16) & HANDLES_SIGTERM)
        return False

    def last_words(self) -> str:
        """The exit status, and the last lines of the log."""
        lines = self.log.read_text(errors="replace").strip().splitlines()[-3:]
        return f"{self.name} ended with status {self.process.poll()}: " + " / ".join(lines)


@contextmanager
def run_program(name: str, arguments: list[str], folder: Path) -> Iterator[Program]:
    """Run a command until it ends by itself, or the block fails; raises RuntimeError unless its status is 0."""
    program = Program(name, lambda _: arguments, folder)
    program.start()
    limit = threading.Timer(LIMIT_S, program.process.kill)
    limit.start()
    try:
        yield program
        program.process.wait()
    finally:
        limit.cancel()
        program.end()
    if program.process.returncode:
        raise RuntimeError(program.last_words())


def ingest_arguments(model: str, engine: str, device: str, socket: Path) -> list[str]:
    """The arguments, without sources, of a `streamtok ingest` that publishes at `socket` once a reader has joined.

    `engine` is "auto" or a file with an engine configuration, `device` "cpu" or "cuda" (this process's current GPU).
    """
    where = device if device == "cpu" else f"cuda:{torch.cuda.current_device()}"
    told = {"model": model, "engine": engine, "device": where, "bind": f"ipc://{socket}", "wait-subscribers": "1"}
    return ["ingest", *(f"--{flag}={value}" for flag, value in told.items())]


def name_for_child(tok: Tokenizer, name: str | None, folder: Path) -> str:
    """A name by which another process loads the weights of `tok`: `name` if it has weights, else a copy in `folder`."""
    if name is not None and (Path(name).exists() or (WEIGHTS / name).is_dir()):
        return name
    save(tok, folder / "model")
    return str(folder / "model")
