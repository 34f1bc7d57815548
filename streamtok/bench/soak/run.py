"""Runs a soak test: a node, its readers and watchers, and faults at random times.

report = Soak(SoakOptions(seed=1, seconds=60), folder).run(FAULTS)
"""

import json
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from streamtok.bench.process import Program
from streamtok.bench.soak.options import SoakOptions
from streamtok.bench.soak.promises import Promises, Usage, compare_tenths, judge_growth, measure_usage
from streamtok.bench.soak.watching import Scraper, Watcher

TICK_S = 0.05
SAMPLE_S = 1.0
FPS = 30.0
ROTATE_MINUTES = 0.1
START_S = 120.0  # time limit for a process to start on a busy machine
DECODABLE_S = 5.0  # time limit for a decodable message once the node is bound, resumed, or reachable

Fault = Callable[["Soak", random.Random], None]  # does harm, with its own random generator, then checks promises


class Soak:
    """A run, whose attributes the faults use; `run` returns the report. `folder` gets logs, recordings and pictures."""

    def __init__(self, options: SoakOptions, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.promises = Promises()
        port, control, self.metrics_port = find_free_ports(3)
        self.endpoint, self.control = f"tcp://127.0.0.1:{port}", f"tcp://127.0.0.1:{control}"
        self.node = Program("node", self._node_arguments, folder)
        record = ["record", self.endpoint, "--json", "-o", str(folder / "reader"), f"--max-minutes={ROTATE_MINUTES}"]
        commands = {
            "subscribe": lambda _: ["subscribe", self.endpoint, "--json"],
            "record": lambda _: record,
            "decode": lambda n: ["decode", self.endpoint, "-o", str(folder / f"back{n}.mp4"), "--quiet", "--json"],
        }
        self.readers = [Program(name, commands[name], folder) for name in options.readers]
        self.restart_s: list[float] = []
        self.link_s: list[float] = []
        self._bound_at = 0.0
        self._began = time.monotonic()
        self._usage: list[Usage] = []
        self._sampled_at = 0.0
        self.watcher: Watcher
        self.scraper: Scraper

    def _node_arguments(self, _start: int) -> list[str]:
        height, width = self.options.size
        told = {
            "source": f"synthetic:{height}x{width}@{FPS:.0f}?seed={self.options.seed}",
            "stream": "front",
            "policy": "latest",
            "model": self.options.model,
            "device": "cpu",
            "threads": "1",
            "keyframe-interval": "2",
            "bind": self.endpoint,
            "control": self.control,
            "metrics": str(self.metrics_port),
            "record": str(self.folder / "node"),
            "record-frames": "lossy",
            "set": f"record_max_minutes={ROTATE_MINUTES}",
        }
        return ["ingest", "--realtime", "--json", *(f"--{flag}={value}" for flag, value in told.items())]

    def run(self, faults: Mapping[str, Fault]) -> dict[str, Any]:
        """Start all processes, do the planned faults, and end all processes; returns the report."""
        for name in ("node", "reader"):
            (self.folder / name).mkdir()
        done: Counter[str] = Counter()
        with ExitStack() as stack:
            stack.callback(self._kill_all)
            self.start_node()
            self.watcher = Watcher(self.endpoint, self.promises)
            stack.callback(self.watcher.close)
            self.scraper = Scraper(self.metrics_port, self.watcher, self._generation, FPS)
            stack.callback(self.scraper.close)
            for reader in self.readers:
                reader.start()
            for reader in self.readers:
                self.wait_until(reader.takes_signals, START_S)
            self._began = time.monotonic()
            self._usage.clear()
            with suppress(NodeEnded):  # it is counted as a broken promise, and the report is made all the same
                self._do_faults(faults, done)
            self._end_all()
        return self._report(done)

    def _do_faults(self, faults: Mapping[str, Fault], done: Counter[str]) -> None:
        for number, (at, name) in enumerate(self.options.plan(faults)):
            self.wait(self._began + at - time.monotonic())
            if time.monotonic() > self._began + self.options.seconds:
                return  # on a slow machine earlier faults took too long
            faults[name](self, random.Random(f"{self.options.seed}/{number}"))
            done[name] += 1
        self.wait(self._began + self.options.seconds - time.monotonic())

    def start_node(self) -> None:
        """Start the node and wait until it is bound; raises NodeEnded if it does not start."""
        self.node.start()
        bound = self.wait_until(lambda: self.node.process.poll() is not None or self._is_bound(), START_S)
        self._bound_at = time.monotonic()
        self._usage.clear()  # samples of a process that is starting say nothing about growth
        bound = bound and self.node.process.poll() is None
        self.promises.check("the node starts", bound, "" if bound else self.node.last_words())
        if not bound:
            raise NodeEnded(self.node.last_words())

    def _is_bound(self) -> bool:
        return self.node.has_logged("event=bound")

    def _generation(self) -> int | None:
        return None if self.node.down or not self._is_bound() else self.node.starts

    def check_decodable(self, promise: str, before: str) -> None:
        """Check that a decodable message comes in time, and of another session than `before` unless that is empty."""
        since = self._bound_at if before else time.monotonic()

        def has_come() -> bool:
            return self.watcher.session != before and (bool(before) or self.watcher.heard_at >= since)

        came = self.wait_until(has_come, DECODABLE_S + since - time.monotonic())
        waited = max(0.0, self.watcher.heard_at - since) if came else DECODABLE_S
        if before:
            self.restart_s.append(waited)
        self.promises.check(promise, came, f"not within {DECODABLE_S} s")

    def wait(self, seconds: float) -> None:
        """Wait, and check the processes meanwhile."""
        self.wait_until(lambda: False, seconds)

    def wait_until(self, is_true: Callable[[], bool], seconds: float) -> bool:
        """Wait until `is_true()`, and check the processes meanwhile; returns whether it came true in time."""
        limit = time.monotonic() + seconds
        while not (found := is_true()) and time.monotonic() < limit:
            self._check_programs()
            time.sleep(TICK_S)
        return found

    def _check_programs(self) -> None:
        now = time.monotonic()
        if now - self._sampled_at < SAMPLE_S:
            return
        self._sampled_at = now
        for program in (self.node, *self.readers):
            if program.down:
                continue
            ended = program.has_ended()
            kind = "the node" if program is self.node else "every reader"
            self.promises.check(f"{kind} goes on", not ended, program.last_words() if ended else "")
            if ended and program is self.node:
                raise NodeEnded(program.last_words())
            if ended:
                program.start()  # to keep the load on the others
        usage = None if self.node.down else measure_usage(self.node.process.pid, now - self._began)
        if usage is not None:
            self._usage.append(usage)

    def _end_all(self) -> None:
        """End readers and node by SIGTERM, as a supervisor does; each must end with status 0 and print its summary."""
        for program in (*self.readers, self.node):
            began = time.monotonic()
            status = program.end()
            words = f"{program.last_words()}, {time.monotonic() - began:.1f} s after SIGTERM"
            self.promises.check("SIGTERM ends a process with status 0", status == 0, words)
            self.promises.check("a summary at the end", is_json(program.output), program.name)

    def _kill_all(self) -> None:
        for program in (*self.readers, self.node):
            if not program.down:
                program.kill()

    def _report(self, done: Counter[str]) -> dict[str, Any]:
        watcher = self.watcher
        figures: dict[str, Any] = {"messages": watcher.messages, "lost": watcher.lost, "node_starts": self.node.starts}
        figures["restart_s"] = [round(seconds, 3) for seconds in self.restart_s]
        figures["link_s"] = [round(seconds, 3) for seconds in self.link_s]
        figures["encode_ms"] = compare_tenths(watcher.times, watcher.encode_ms)
        figures["node"] = judge_growth(self.promises, self._usage)
        self.promises.check("messages came", watcher.messages > 0)
        return {
            "kept": not self.promises.broken,
            "seed": self.options.seed,
            "seconds": round(time.monotonic() - self._began, 1),
            "faults": dict(done),
            "promises": self.promises.summary(),
            "figures": figures,
        }


class NodeEnded(RuntimeError):
    """The node ended by itself, or did not start again, which ends the run."""


def is_json(path: Path) -> bool:
    """Whether the last line of a file is non-empty JSON."""
    lines = path.read_text(errors="replace").strip().splitlines() or [""]
    try:
        return bool(json.loads(lines[-1]))
    except ValueError:
        return False


def find_free_ports(count: int) -> list[int]:
    """Find `count` TCP ports of this machine that nothing listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [opened.getsockname()[1] for opened in sockets]
