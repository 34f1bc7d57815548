"""Commands of this project that the benchmark runs beside itself, as a user would have them."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import torch

from streamtok.checkpoint import WEIGHTS, save
from streamtok.model import Tokenizer

LIMIT_S = 600.0  # a first start measures every precision, and compiles on a GPU
STOP_S = 5.0
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Child:
    """A process that was started, and the file of its standard error."""

    process: subprocess.Popen[str]
    log: Path

    def check(self) -> None:
        """RuntimeError with its last words if the process has ended."""
        if self.process.poll() is not None:
            words = " / ".join(self.log.read_text().strip().splitlines()[-3:])
            raise RuntimeError(f"the process to measure ended with status {self.process.returncode}: {words}")

    def wait_for(self, socket: Path) -> None:
        """Wait until it has bound `socket`: a reader that is there before its node retries later and later."""
        while not socket.exists():
            self.check()
            time.sleep(0.001)

    def read_line(self) -> str:
        """The next line that it prints; RuntimeError if it ends without one."""
        line = cast("IO[str]", self.process.stdout).readline()
        if not line:
            self.process.wait()
            self.check()
        return line


@contextmanager
def run_child(command: list[str], folder: Path) -> Iterator[Child]:
    """`python -m COMMAND` with a cache in `folder`; it ends by itself, or with the block if the block fails."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"STREAMTOK_CACHE": str(folder / "cache"), "PYTHONPATH": paths}
    with (folder / "log").open("w") as log:
        started = subprocess.Popen(
            [sys.executable, "-m", *command], env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
    limit = threading.Timer(LIMIT_S, started.kill)
    limit.start()
    running = Child(started, folder / "log")
    try:
        yield running
        started.wait()
    finally:
        limit.cancel()
        started.terminate()  # does nothing to a process that has ended
        try:
            started.wait(STOP_S)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()
    if started.returncode:
        running.check()


def ingest_command(model: str, engine: str, device: str, socket: Path) -> list[str]:
    """`streamtok ingest` without its sources; it publishes at `socket` and waits there for one reader.

    `engine`: "auto" or a file that holds an engine configuration. `device`: "cpu" or "cuda", that of this process.
    """
    where = device if device == "cpu" else f"cuda:{torch.cuda.current_device()}"
    told = {"model": model, "engine": engine, "device": where, "bind": f"ipc://{socket}", "wait-subscribers": "1"}
    return ["streamtok.cli", "ingest", *(f"--{flag}={value}" for flag, value in told.items())]


def name_for_child(tok: Tokenizer, name: str | None, folder: Path) -> str:
    """`name` if a process that loads it reads weights and does not make random ones, or a copy of `tok` in `folder`."""
    if name is not None and (Path(name).exists() or (WEIGHTS / name).is_dir()):
        return name
    save(tok, folder / "model")
    return str(folder / "model")
