"""Record token streams and camera images to MCAP files without ever blocking the senders.

    recorder = Recorder("drive.mcap", RecorderOptions(frames="lossless"))
    recorder.add_stream(info)
    recorder.write_frame(frame)
    recorder.write_group(header, group.tokens)
    recorder.close()

A thread of its own writes. What it cannot write in time is dropped and counted, and the count is in the file. A process
or machine that dies at any moment loses at most the last second.
"""

import contextlib
import errno
import itertools
import logging
import math
import threading
import time
import zlib
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np

from streamtok.event_log import EventLog
from streamtok.recording.format import MAX_TIME, drop_unstorable
from streamtok.recording.recorder_options import RecorderOptions
from streamtok.recording.write_queue import WriteJob, WriteQueue
from streamtok.recording.writer import EXISTS, RecordingWriter
from streamtok.types import Frame
from streamtok.wire.header import system_clock_pair
from streamtok.wire.message import Info, TokenHeader, TokenMessage

log = logging.getLogger("streamtok.record")

FLUSH_S = 0.25  # at most between two flushes to the system; flushed data survives the process
PAUSE_S = 0.05  # at least between two flushes, each of which ends a chunk
SYNC_S = 1.0  # between two flushes to the disk, on another thread because they may take long


def check_destination(path: Path) -> None:
    """Raise FileExistsError or FileNotFoundError for a `path` at which no `Recorder` can begin."""
    if path.is_dir():
        return
    if path.suffix.lower() != ".mcap":
        raise FileNotFoundError(
            f"{path} is no folder and does not end in .mcap: name a file that does (PATH.mcap), or a folder that "
            "exists, where each start begins a file"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: folder {path.parent} does not exist; create it first")
    if path.exists():
        raise FileExistsError(EXISTS.format(path))


class Recorder:
    """Writes messages to `path` (and `path` with _001, _002, ... after a rotation), on its own thread.

    If `path` is a folder, a new file in it is named by the time (UTC), so that a restarted service gets a new name.
    `counts` holds `tokens`, `frames`, `info`, `bytes` and `missed`, `unrecorded` the missed ones by stream; `paths` the
    files written; `error` why recording stopped before `close`, if it did. Raises FileExistsError rather than overwrite
    a file, and FileNotFoundError for a folder that is missing.
    """

    def __init__(
        self, path: str | Path, options: RecorderOptions | None = None, *, metadata: dict[str, Any] | None = None
    ) -> None:
        self.path = Path(path)
        self.options = options or RecorderOptions()
        self.metadata = metadata or {}
        self.counts: Counter[str] = Counter()
        self.paths: list[Path] = []
        self.error = ""
        self._infos: dict[str, tuple[Info | None, int]] = {}
        self._last_seq: dict[tuple[str, str], int] = {}
        self._events: dict[str, EventLog] = {}  # by stream
        self._started = time.monotonic()
        self._queue = WriteQueue(self.options.queue_bytes, self.options.wait, self.counts)
        self.unrecorded = self._queue.missed_by_stream
        self._writer = self._first_file()
        self._log = EventLog(str(self.path), log, "path")
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._ended = threading.Event()
        self._sync_error: OSError | None = None
        self._thread.start()
        threading.Thread(target=self._sync, name="recorder-sync", daemon=True).start()

    def add_stream(self, info: Info) -> None:
        """Announce a stream, or a change in it (a new size or session). Its `clock` maps capture times to UTC; if it
        has none, this machine's is used."""
        known = self._infos.get(info.stream)
        info = drop_unstorable(info)
        if tuple(info.clock) == (0, 0) or not 0 <= info.clock[1] < MAX_TIME:
            info = msgspec.structs.replace(info, clock=system_clock_pair())
        offset = info.clock[1] - info.clock[0]
        if known is not None and (known[0] is None or known[0].session == info.session):
            offset = known[1]  # one mapping per session, although the wall clock is being corrected
        self._announce(info.stream, info, offset)

    def write_group(self, header: TokenHeader, tokens: np.ndarray) -> None:
        """Record one token message of an announced stream: its header, and its grid, (h, w) or of more axes."""
        payload = np.ascontiguousarray(tokens).tobytes()
        plain = {"compression": "none", "checksum": zlib.crc32(payload), "coding": msgspec.UNSET}
        self._put_tokens(msgspec.structs.replace(header, **plain), payload, tokens)

    def write_message(self, message: TokenMessage) -> None:
        """Record one received token message, with its payload as sent."""
        self._put_tokens(message.header, bytes(message.payload), message.grid)

    def _put_tokens(self, header: TokenHeader, payload: bytes, grid: np.ndarray | None) -> None:
        """Queue one token message; `grid` is the decoded payload, for its picture, if it is known."""
        if header.stream not in self._infos:
            raise ValueError(f"stream {header.stream!r} is not announced: call add_stream(info) first")
        last = self._last_seq.get((header.stream, header.session))
        if last is not None and header.seq > last + 1:
            self.missed(header.stream, "tokens", header.seq - last - 1)
        self._last_seq[header.stream, header.session] = header.seq
        self._queue.put(WriteJob(header.stream, "tokens", 0, lambda writer: writer.write_tokens(header, payload, grid)))

    def write_frame(self, frame: Frame) -> None:
        """Record one camera image; does nothing if the option `frames` is "none"."""
        if self.options.frames == "none":
            return
        if frame.stream not in self._infos:
            monotonic, utc = system_clock_pair()
            self._announce(frame.stream, None, utc - monotonic)
        size = len(frame.packet) if frame.packet is not None else math.prod(frame.picture.shape)
        self._queue.put(WriteJob(frame.stream, "frames", size, lambda writer: writer.write_frame(frame)))

    def missed(self, stream: str, kind: str, count: int) -> None:
        """Note that `count` "tokens" or "frames" of a stream were lost before they reached the recorder."""
        self._queue.miss(stream, kind, count)

    def unstorable(self, stream: str, kind: str, error: Exception) -> None:
        """Count a message that no file can hold."""
        self._queue.miss(stream, kind, 1, "unstorable")
        events = self._events.setdefault(stream, EventLog(stream, log))
        events.add(time.monotonic_ns(), "unstorable", {"messages": 1}, kind=kind, error=repr(error))

    def close(self, timeout: float | None = None) -> None:
        """Write the backlog and end the file, waiting for `timeout` s (None: until done). Closing twice is fine."""
        self._queue.close()
        self._thread.join(timeout)
        if self._thread.is_alive():
            log.error("event=unfinished path=%s: cut off %g s after the end was asked for", self._writer.path, timeout)
            return
        for events in (self._log, *self._events.values()):
            events.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def summary(self) -> dict[str, Any]:
        """Counts, files, and the error that ended recording, if one did."""
        return {**self.counts, "files": [str(path) for path in self.paths], "error": self.error}

    def _announce(self, stream: str, info: Info | None, offset_ns: int) -> None:
        self._infos[stream] = info, offset_ns
        self._queue.put(WriteJob(stream, "info", 0, lambda writer: writer.add_stream(stream, info, offset_ns)))

    def _run(self) -> None:
        """The writing thread. An error ends the recording, keeps what was written, and is left in `error`."""
        try:
            self._write_all()
            self._end_file()
        except (OSError, ValueError) as error:
            self._fail(f"{self._writer.path}: {error}")
        except BaseException as error:
            self._fail(f"{self._writer.path}: {error!r}")
            raise
        finally:
            self._ended.set()

    def _sync(self) -> None:
        """The syncing thread: on a busy disk a sync would delay writing, and the backlog would die with the process."""
        while not self._ended.wait(SYNC_S):
            try:
                self._writer.sync()
            except ValueError:  # closed meanwhile, and so synced
                continue
            except OSError as error:
                self._sync_error = error
                return

    def _write_all(self) -> None:
        """Write jobs, and flush once none waits: on a busy machine, a later wake-up may come too late."""
        flushed, unsafe = 0.0, False
        while True:
            job = self._queue.take(flushed + (PAUSE_S if unsafe else FLUSH_S))
            if job is not None:
                self._write(job)
                unsafe = True
            if time.monotonic() >= flushed + (PAUSE_S if unsafe and not self._queue.waiting else FLUSH_S):
                self._flush_and_rotate()
                flushed, unsafe = time.monotonic(), False
            if job is None and self._queue.finished:
                return

    def _write(self, job: WriteJob) -> None:
        """Write one job; if its message cannot be stored, it is counted, and the others go on."""
        try:
            job.write(self._writer)
        except (OSError, MemoryError):
            raise
        except Exception as error:
            self.unstorable(job.stream, job.kind, error)
        else:
            self.counts[job.kind] += 1

    def _flush_and_rotate(self) -> None:
        self._queue.write_missed(self._writer)
        self._writer.flush()
        if self._sync_error is not None:
            raise self._sync_error
        self._follow()
        free = self._writer.room
        if free < self.options.min_free_bytes:
            self._end_file()
            least = self.options.min_free_bytes / 1e6
            raise OSError(f"the disk has {free / 1e6:.0f} MB free, recording stops below {least:.0f} MB (min_free)")
        full = self._writer.is_removed or self._writer.nbytes >= (self.options.max_bytes or math.inf)
        if full or time.monotonic() - self._started >= (self.options.max_seconds or math.inf):
            try:
                following = self._next_file()
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    self._end_file()
                    raise
                self._started = time.monotonic()  # no file descriptors are left: keep this file, rotate later
                self._log.add(time.monotonic_ns(), "rotation_postponed", {"times": 1}, error=error)
                return
            self._end_file()
            self._writer = following
            for stream, (info, offset) in list(self._infos.items()):
                self._writer.add_stream(stream, info, offset)

    def _first_file(self) -> RecordingWriter:
        check_destination(self.path)
        return self._new_file_in(self.path) if self.path.is_dir() else self._next_file()

    def _next_file(self) -> RecordingWriter:
        part = len(self.paths)
        name = f"{self.path.stem}_{part:03d}{self.path.suffix}" if part else self.path.name
        facts = {**self.metadata, "part": part, "first_file": self.path.name}
        writer = RecordingWriter(self.path.with_name(name), facts, self.options.frames, self.options.pictures)
        self.paths.append(writer.path)
        self._started = time.monotonic()
        log.info("event=file path=%s", writer.path)
        return writer

    def _new_file_in(self, folder: Path) -> RecordingWriter:
        """Open a new file in a folder, named by the time (UTC)."""
        stem = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        for number in itertools.count(1):
            self.path = folder / (f"{stem}.mcap" if number == 1 else f"{stem}-{number}.mcap")
            with contextlib.suppress(FileExistsError):  # another recorder's, or the clock was set back
                return self._next_file()
        raise AssertionError

    def _follow(self) -> None:
        """If the open file or its folder was moved, go on there, and say so; the next file needs a folder that exists.

        Earlier files that are gone went with the folder.
        """
        was = self._writer.path
        if not self._writer.follow():
            return
        now = self._writer.path
        self._log.add(time.monotonic_ns(), "moved", {"times": 1}, to=now)
        files = [now if path == was else path for path in self.paths]
        self.paths = [path if path.exists() else now.with_name(path.name) for path in files]
        if not self.path.parent.is_dir():
            self.path = now.with_name(self.path.name)

    def _end_file(self) -> None:
        self._queue.write_missed(self._writer)
        self._follow()
        if self._writer.is_removed:
            log.error("event=removed path=%s: it was deleted or unmounted while it was written", self._writer.path)
        self._writer.close()
        self._count_bytes()

    def _count_bytes(self) -> None:
        self.counts["bytes"] = sum(path.stat().st_size for path in self.paths if path.exists())

    def _fail(self, text: str) -> None:
        self._writer.abandon()
        self._count_bytes()
        self.error = text
        self._queue.fail()
        log.error("event=recording_stopped reason=%r", text)
