"""The outputs of a replay: a publisher like a live node's, a new recording, token files."""

import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from streamtok.ingest.core import IngestCore
from streamtok.names import check_stream_name
from streamtok.node.replay import Replayed
from streamtok.recording.reader import Recording
from streamtok.recording.recorder import Recorder
from streamtok.recording.recorder_options import RecorderOptions
from streamtok.settings.replay import ReplaySettings
from streamtok.tokens.stream_files import StreamFiles
from streamtok.types import TokenGroup
from streamtok.wire.message import Info, TokenHeader, TokenMessage
from streamtok.wire.publisher import Publisher
from streamtok.wire.security import CurveServer, load_keys
from streamtok.wire.streams import StreamTable, to_info

WAIT_S = 0.02


class ReplayClock:
    """The capture clock while a drive is replayed: it is set to each new frame's time, and runs on from there.

    A capture time plus `offset_ns` is UTC.
    """

    def __init__(self, offset_ns: int = 0) -> None:
        self.offset_ns = offset_ns
        self._capture_ns, self._set_ns = 0, time.monotonic_ns()

    def reach(self, capture_ns: int) -> None:
        """Set the clock to the capture time that the replay has reached."""
        self._capture_ns, self._set_ns = capture_ns, time.monotonic_ns()

    def now_ns(self) -> int:
        """The time on the capture clock, ns."""
        return self._capture_ns + time.monotonic_ns() - self._set_ns

    def pair(self) -> tuple[int, int]:
        """(capture clock, UTC) in ns at the replay's current moment."""
        now = self.now_ns()
        return now, now + self.offset_ns


def clock_offsets(recording: Recording | None) -> dict[str, int]:
    """The offset (ns) from capture times to UTC for each stream of a recording, from its first session."""
    found: dict[str, int] = {}
    for file in recording.files if recording else ():
        for channel in file.channels.values():
            if "clock_offset_ns" in channel.metadata:
                found.setdefault(channel.metadata["stream"], int(channel.metadata["clock_offset_ns"]))
    return found


class Pace:
    """Slows a replay to `speed` times real time by the time of the drive; None is as fast as possible."""

    def __init__(self, speed: float | None) -> None:
        self.speed = speed
        self._start: tuple[int, int] | None = None

    def wait(self, drive_ns: int, idle: Callable[[], None], stop: Callable[[], bool]) -> None:
        """Wait until the time `drive_ns`, of `DriveTime`, is due, and call `idle` meanwhile."""
        if self.speed is None:
            return
        if self._start is None:
            self._start = drive_ns, time.monotonic_ns()
        due = self._start[1] + (drive_ns - self._start[0]) / self.speed
        while not stop() and (left := (due - time.monotonic_ns()) / 1e9) > 0:
            time.sleep(min(WAIT_S, left))
            idle()


class Outputs:
    """The outputs that the settings ask for; `recording` is None for drives of other origin.

    Recorded tokens that are published again go through `announce` and `forward`, groups that are encoded again through
    `prepare` and `write`. A context manager: leaving it ends streams and files, or after an error discards token files.
    """

    def __init__(
        self, settings: ReplaySettings, recording: Recording | None, infos: dict[str, Info], stop: Callable[[], bool]
    ) -> None:
        self.settings, self.infos, self.stop = settings, infos, stop
        recorded = recording.first_infos() if recording is not None else {}
        self._metadata = {name: info.metadata for name, info in recorded.items() if info.metadata}
        self._offsets = clock_offsets(recording)
        self.clock = ReplayClock(next(iter(self._offsets.values()), 0))
        self.publisher: Publisher | None = None
        self.recorder: Recorder | None = None
        self._files: dict[str, StreamFiles] = {}
        self._announced: dict[str, tuple[int, int]] = {}
        self._waited = False
        self._stack = ExitStack()
        fixed = {"node": settings.node, "session": secrets.token_hex(16), "control": None}
        self._table = StreamTable(fixed, max_epoch_bytes=0)

    def __enter__(self) -> "Outputs":
        with ExitStack() as stack:
            if self.settings.bind:
                self.publisher = stack.enter_context(self._make_publisher(self.settings.bind))
            if self.settings.record:
                facts = {"replay_of": self.settings.path.name, "node": self.settings.node}
                recorder = Recorder(self.settings.record, RecorderOptions("lossless", wait=True), metadata=facts)
                self.recorder = stack.enter_context(recorder)
            if self.settings.out:
                self.settings.out.mkdir(parents=True, exist_ok=True)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.__exit__(*exc_info)  # type: ignore[arg-type]

    @property
    def failure(self) -> str:
        """Why the new recording lacks its end, once the outputs are closed; "" if it is whole."""
        return f"recording stopped: {self.recorder.error}" if self.recorder and self.recorder.error else ""

    def wait_for_subscribers(self) -> None:
        """Wait until `wait_subscribers` readers have joined the streams that were announced so far."""
        wanted, self._waited = self.settings.wait_subscribers, True
        if wanted and self.publisher is not None:
            self.publisher.wait_subscribers(wanted)

    def idle(self) -> None:
        """Serve readers; keyframe requests have no effect in a replay."""
        if self.publisher is not None:
            self.publisher.poll()

    def announce(self, info: Info) -> None:
        """Announce a stream whose recorded tokens are published again."""
        now = self.clock.now_ns()
        recorded = info.clock if any(info.clock) else (now, now + self._offsets.get(info.stream, 0))
        if self.publisher is not None:
            self.publisher.forward_info(msgspec.structs.replace(info, replay=True, clock=recorded), -1)

    def forward(self, message: TokenMessage) -> None:
        """Publish a recorded message unchanged."""
        if self.publisher is not None:
            self.publisher.forward(message)

    def prepare(self, group: TokenGroup, core: IngestCore) -> None:
        """Announce a group's stream, if it is new or its size changes, and prepare its token files.

        Before the first group, it waits for readers.
        """
        if self._announced.get(group.stream) != group.image_size:
            self._announced[group.stream] = group.image_size
            self.clock.reach(group.capture_ns[-1])
            self._announce_encoded(group.stream, core)
        if not self._waited:
            self.wait_for_subscribers()

    def write(self, replayed: Replayed) -> None:
        """Publish, record and write one replayed group."""
        group = replayed.group
        self.clock.reach(group.capture_ns[-1])
        if self.recorder is not None:
            for frame in replayed.frames:
                self.recorder.write_frame(frame)
        if self.publisher is not None and self.settings.publish_frames:
            for frame in replayed.frames:
                self.publisher.publish_frame(frame)
        header = self.publisher.publish(group) if self.publisher is not None else None
        if self.recorder is not None:
            self.recorder.write_group(header or self._make_header(group), group.tokens)
        if group.stream in self._files:
            self._files[group.stream].write(group)

    def _make_header(self, group: TokenGroup) -> TokenHeader:
        state = self._table.get(group.stream)
        header, parts = state.pack_group(group, self.clock.now_ns())
        state.note_sent(header, parts)
        return header

    def _announce_encoded(self, name: str, core: IngestCore) -> None:
        info = self._info(name, core)
        info = self.publisher.add_stream(info) if self.publisher is not None else self._table.add(info)
        if self.recorder is not None:
            self.recorder.add_stream(msgspec.structs.replace(info, clock=self.clock.pair()))
        if self.settings.out and name not in self._files:
            self._files[name] = self._stack.enter_context(self._make_files(name, self.settings.out, core))

    def _info(self, name: str, core: IngestCore) -> Info:
        """Make a stream's info as for a live one, with the facts that only the recording knows."""
        info = to_info(
            core.stream_info(name), node=self.settings.node, metadata=self._metadata.get(name, {}), replay=True
        )
        if name not in self.infos:
            return info
        kept = {
            fact: getattr(self.infos[name], fact) for fact in ("frame_rate", "keyframe_interval", "bitrate", "batch")
        }
        return msgspec.structs.replace(info, **kept)

    def _make_publisher(self, bind: str) -> Publisher:
        settings = self.settings
        return Publisher(
            bind,
            settings.control,
            node=settings.node,
            curve=load_keys(CurveServer, settings.curve),
            insecure=settings.insecure,
            ipc_group=settings.ipc_group,
            lossless=settings.pace is None,
            clock_ns=self.clock.now_ns,
            clock_pair=self.clock.pair,
            stop=self.stop,
        )

    def _make_files(self, name: str, folder: Path, core: IngestCore) -> StreamFiles:
        facts: dict[str, Any] = {"model": self.settings.model or core.config.name, "source": self.settings.path.name}
        facts |= {"clock": "capture", "clock_offset_ns": self._offsets.get(name, self.clock.offset_ns)}
        if name in self._metadata:
            facts["metadata"] = self._metadata[name]
        return StreamFiles(folder / f"{check_stream_name(name)}.safetensors", core, facts)
