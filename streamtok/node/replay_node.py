"""Runs one replay: the drive's content decides how it is cut into groups, the settings where the tokens go."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice, takewhile
from typing import Any, TypeVar

from streamtok.drives.drive import LEFT_OUT, describe_losses
from streamtok.drives.open_drive import find_recording, open_drive
from streamtok.drives.survey import DriveTime
from streamtok.engine.configuration import EngineConfiguration, inspect_machine
from streamtok.engine.loading import load, pick_device
from streamtok.engine.optimized import describe_engine
from streamtok.ingest.core import IngestCore, StreamOptions
from streamtok.model import Tokenizer
from streamtok.node.replay import DriveReplay, RecordedReplay, Replay
from streamtok.node.replay_outputs import Outputs, Pace, clock_offsets
from streamtok.node.verification import Verification, check_verifiable
from streamtok.recording.reader import Recording
from streamtok.settings.replay import ReplaySettings
from streamtok.types import TokenGroup
from streamtok.wire.message import Info, TokenHeader

T = TypeVar("T")
NOT_COMPARED = ("size", "measured_ms", "agreement", "format")  # fields of an engine configuration that no token shows


class ReplayNode:
    """Runs one replay; `run` returns the summary that `--json` prints.

    With `mode` "recorded", frames of a recording are cut into groups as its headers say. With "tokens", its tokens are
    published again. With "drive", frames are cut by the rules on frame ids and capture times. The tokenizer is loaded
    unless it is given.
    """

    def __init__(
        self,
        settings: ReplaySettings,
        tokenizer: Tokenizer | None = None,
        on_update: "Callable[[ReplayNode], None]" = lambda node: None,
    ) -> None:
        self.settings, self.tokenizer, self.on_update = settings, tokenizer, on_update
        self.recording = find_recording(settings.path)
        self.mode = self._choose_mode()
        self.infos: dict[str, Info] = self.recording.first_infos() if self.recording else {}
        self.verification = Verification()
        self.counts: dict[str, Counter[str]] = {}
        self.skipped: Counter[str] = Counter()
        self.damaged = 0  # frames that could not be read
        self.notes: list[str] = list(self.recording.notes) if self.recording else []
        self.account: dict[str, dict[str, Any]] = {}  # `Drive.account` of the drive's cameras
        self.failure = ""  # which file of the drive could no longer be read, or what ended the new recording
        self._stopping = threading.Event()
        self._seconds = 0.0
        self._time = DriveTime(clock_offsets(self.recording))

    def stop(self) -> None:
        """Ask the replay to end."""
        self._stopping.set()

    @property
    def empty(self) -> bool:
        """Whether the replay has no group, although it was not stopped."""
        return not self.counts and not self._stopping.is_set()

    def run(self) -> dict[str, Any]:
        """Replay to the end, or until `stop`; raises ValueError or OSError for what cannot be replayed."""
        if self.mode == "tokens" and self.recording is not None:
            return self._publish_recorded(self.recording)
        replay = self._open()
        with Outputs(self.settings, self.recording, self.infos, self._stopping.is_set) as outputs:
            pace, started = Pace(self.settings.pace), time.monotonic()
            for replayed in self._limited(iter(replay)):
                outputs.prepare(replayed.group, replay.core)
                due_ns = self._time.see(replayed.group.stream, replayed.group.capture_ns)
                pace.wait(due_ns, outputs.idle, self._stopping.is_set)
                self._count(replayed.group, dropped=replayed.group.dropped)
                if self.settings.verify:
                    self.verification.add(replayed)
                outputs.write(replayed)
                outputs.idle()
            self._seconds = time.monotonic() - started
        self._collect(replay)
        self.failure = self.failure or outputs.failure
        if self.settings.verify and isinstance(replay, RecordedReplay):
            self._conclude(replay)
        return self.summary()

    def summary(self) -> dict[str, Any]:
        """The summary for `--json`: counts per stream, speed, and the verification if there was one."""
        frames = sum(counts["frames"] for counts in self.counts.values())
        result: dict[str, Any] = {
            "mode": self.mode,
            "streams": {name: dict(counts) for name, counts in self.counts.items()},
            "seconds": round(self._seconds, 3),
            "fps": round(frames / self._seconds, 2) if self._seconds else 0.0,
            "times_real_time": round(self._time.now / 1e9 / self._seconds, 2) if self._seconds else 0.0,
            "damaged": self.damaged,
            "skipped": dict(self.skipped),
            "cameras": self.account,
            "notes": self.notes,
            "failure": self.failure,
        }
        if self.settings.verify:
            found = self.verification
            result |= {"compared": found.compared, "different": found.different, "first_difference": found.first}
            result |= {"verified": not found.faults(), "faults": found.faults()}
        return result

    def _choose_mode(self) -> str:
        recording, settings = self.recording, self.settings
        if recording is None or not recording.streams:
            if settings.verify or settings.recorded_tokens:
                raise ValueError(f"{settings.path} has no recorded tokens")
            return "drive"
        if settings.recorded_tokens:
            return "tokens"
        encodes = settings.verify or settings.out or settings.record
        if not set(recording.streams) & set(recording.cameras) and settings.bind and not encodes:
            return "tokens"
        return "recorded"

    def _load(self) -> Tokenizer:
        recorded = next(iter(self.infos.values()), None)
        name = self.settings.model or (recorded.model if recorded else "") or "nano"
        engine = recorded.engine if recorded else {}
        try:
            return load_as_recorded(name, engine, self.settings.device, self.settings.deterministic)
        except ValueError as error:
            hint = "" if self.settings.model else f" ({self.settings.path} names it; give the checkpoint by --model)"
            raise ValueError(f"{error}{hint}") from error

    def _open(self) -> Replay:
        settings = self.settings
        tokenizer = self.tokenizer = self._load() if self.tokenizer is None else self.tokenizer
        if self.mode == "drive" or self.recording is None:
            drive = open_drive(settings.path, settings.streams, settings.clock, settings.depth_range)
            self._time = DriveTime({name: choice.behind_ns for name, choice in drive.clocks.items()})
            cut = settings.on_gap, settings.tail, settings.keyframe_interval, settings.size, settings.fit
            hold, drift = settings.hold or 0.0, settings.keyframe_drift
            options = dict.fromkeys(drive.streams, StreamOptions("lossless", *cut, hold=hold, keyframe_drift=drift))
            return DriveReplay(drive, IngestCore(tokenizer, options, context=settings.context))
        for info in self.infos.values():
            different = compare_engines(info.engine, describe_engine(tokenizer).to_dict())
            self.notes += [f"{info.stream}: engine {text}" for text in different]
        if settings.verify:
            check_verifiable(self.recording)
        return RecordedReplay(self.recording, tokenizer, settings.streams)

    def _limited(self, groups: Iterator[T]) -> Iterator[T]:
        """Limit groups to `max_groups`, and end when the replay is stopped."""
        return takewhile(lambda group: not self._stopping.is_set(), islice(groups, self.settings.max_groups))

    def _count(self, group: TokenGroup | TokenHeader, **more: int) -> None:
        """Count a `TokenGroup`, or the header of a recorded one."""
        counts = self.counts.setdefault(group.stream, Counter())
        counts.update(groups=1, frames=len(group.frame_ids), keyframes=int(group.keyframe), **more)
        self.on_update(self)

    def _collect(self, replay: Replay) -> None:
        self.skipped.update(replay.skipped)
        self.notes += replay.problems
        self.notes += replay.drive.notes
        self.account, self.failure = replay.drive.account(), replay.drive.failure
        for name, counts in replay.drive.counts.items():
            self.damaged += counts["damaged"]
            for reason in LEFT_OUT:
                if counts[reason]:
                    self.skipped[f"{name}: frames {reason}"] += counts[reason]

    def _conclude(self, replay: RecordedReplay) -> None:
        """Tell the verification which recorded groups were skipped, and why there may be more of them."""
        found, recording = self.verification, replay.recording
        self.skipped.update(found.skipped)
        found.skipped.update(replay.skipped)
        without = set(self.settings.streams or recording.streams) - set(replay.streams)
        found.doubts += [f"{name} has no frames in the recording" for name in sorted(without)]
        if self._stopping.is_set():
            found.doubts.append("it was stopped before its end")
        elif recording.damage or any(not problem.stream for problem in replay.drive.problems):
            found.doubts.append("the file is damaged and may have lost groups (`streamtok repair` tells what is whole)")

    def _publish_recorded(self, recording: Recording) -> dict[str, Any]:
        known = {info_key(info): info for infos in recording.infos().values() for info in infos}
        with Outputs(self.settings, recording, self.infos, self._stopping.is_set) as outputs:
            for info in self.infos.values():
                outputs.announce(info)
            outputs.wait_for_subscribers()
            pace, started = Pace(self.settings.pace), time.monotonic()
            current = {name: info_key(info) for name, info in self.infos.items()}
            for message in self._limited(iter(recording.messages(self.settings.streams))):
                found = info_key(message.header)
                if current[message.stream] != found and found in known:
                    current[message.stream] = found
                    outputs.announce(known[found])
                due_ns = self._time.see(message.stream, message.header.capture_ns)
                pace.wait(due_ns, outputs.idle, self._stopping.is_set)
                outputs.forward(message)
                outputs.idle()
                self._count(message.header, lost=message.lost)
            self._seconds = time.monotonic() - started
        self.notes += recording.damage
        return self.summary()


def load_as_recorded(
    model: str, engine: dict[str, Any], device: str = "auto", deterministic: bool | None = None
) -> Tokenizer:
    """Load the tokenizer `model` on the engine configuration of a recording.

    This machine's default engine is used instead if none was recorded, or if it is for other weights or another device.
    `device` and `deterministic` override it if given. Raises ValueError for a model that does not exist.
    """
    recorded = EngineConfiguration.from_dict(engine)
    if deterministic is None:
        deterministic = recorded.deterministic
    tokenizer = load(model, deterministic=deterministic)
    chosen = pick_device("cpu" if device == "auto" and engine and recorded.device == "cpu" else device).type
    if not engine or chosen != recorded.device or recorded.fingerprint not in ("", tokenizer.fingerprint):
        return load(tokenizer, engine="default", device=chosen)
    if deterministic != recorded.deterministic:
        eager = EngineConfiguration(device=chosen, threads=recorded.threads, slots_per_step=recorded.slots_per_step)
        recorded = replace(eager, deterministic=deterministic)
    machine = inspect_machine(tokenizer.fingerprint, recorded.size, chosen)
    return load(tokenizer, engine=recorded.move_to(machine), device=chosen)


def compare_engines(recorded: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """List differences of engine configurations that tokens may depend on; empty if none was recorded.

    Facts that either leaves empty, as a fleet does with those of its machines, are not compared.
    """
    then = EngineConfiguration.from_dict(recorded).to_dict() if recorded else {}
    return [
        f"{name}: recorded {value!r}, now {now[name]!r}"
        for name, value in then.items()
        if name not in NOT_COMPARED and "" not in (value, now[name]) and value != now[name]
    ]


def info_key(described: Info | TokenHeader) -> tuple[str, str, tuple[int, ...]]:
    """The key that an info shares with the headers that it describes: stream, session and picture size."""
    return described.stream, described.session, tuple(described.image_size)


def format_replay(summary: dict[str, Any], verification: Verification | None) -> str:
    """The summary as lines of text."""
    lines = [
        f"{name}: " + ", ".join(f"{count} {key}" for key, count in counts.items())
        for name, counts in summary["streams"].items()
    ]
    lines.append(
        f"{summary['seconds']:.1f} s, {summary['fps']:.1f} frames per second, "
        f"{summary['times_real_time']:.2f} times real time"
    )
    compared = verification.skipped if verification else ()
    frames = {f"{name}: frames {reason}" for name in summary["cameras"] for reason in LEFT_OUT}  # told below
    left_out = {reason: count for reason, count in summary["skipped"].items() if reason not in {*compared, *frames}}
    lines += [f"{count} left out: {reason}" for reason, count in left_out.items()]
    lines += describe_losses(summary["cameras"])
    if verification is not None:
        lines.append(verification.report())
    return "\n".join(lines)
