"""Plays a recording to pages; each page has its own position on the time line."""

import logging
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from streamtok.event_log import EventLog
from streamtok.recording.format import TOKENS
from streamtok.recording.mcap_file import PLACE
from streamtok.recording.reader import TokenReader, open_recording
from streamtok.view.pictures import Group, Models, Pictures, gather_facts, outlive, time_stages
from streamtok.view.recorded_images import RecordedCamera
from streamtok.view.server import OpenPage
from streamtok.wire.message import TokenMessage

log = logging.getLogger("streamtok.view")

BINS, GROUPS_PER_BIN = 200, 3  # most bins, and fewest groups per bin, of the strips that show a stream's coverage
SPEEDS = 0.1, 16.0
LATE_S = 0.5  # a decoder that is later than this plays slower instead of skipping groups


class TimeLine:
    """Random access to the token messages of a recording, in the order of log time.

    `times_ns` (n,) are the capture times of their last frames, ns since 1970, and `seconds` (n,) those since the first.
    `streams` (n,) are indices into `names`.
    """

    def __init__(self, path: str | Path) -> None:
        self.recording = open_recording(path)
        self.infos = self.recording.first_infos()
        self.names = self.recording.streams
        files = self.recording.files
        parts = [file.locate(file.channel_ids(TOKENS)) for file in files]
        self._places = np.concatenate([np.zeros(0, PLACE), *parts])
        self._files = np.repeat(np.arange(len(files)), [len(part) for part in parts])
        if not len(self._places):
            raise ValueError(f"{path} holds no token messages to show")
        times = self.times_ns = self._places["time"]
        self.seconds = (times - times.min()) / 1e9
        topics = [self._topic(number) for number in range(len(times))]
        self.streams = np.array([self.names.index(topic.removeprefix(TOKENS)) for topic in topics])

    def __len__(self) -> int:
        return len(self._places)

    def read(self, number: int, reader: TokenReader) -> TokenMessage | None:
        """Read message `number`; None if it is damaged, or cannot follow the messages that `reader` has read."""
        try:
            raw = self.recording.files[self._files[number]].message_at(self._places[number])
        except ValueError as error:
            self.recording.damaged(str(error))
            return None
        return reader.read(self._topic(number), raw.data)

    def keyframe_before(self, number: int) -> int:
        """The message to start reading at, so that every stream is decodable at message `number`."""
        wanted = set(self.streams[: number + 1])
        for start in range(number, -1, -1):
            if self.streams[start] in wanted:
                message = self.read(start, TokenReader(self.recording.damaged))
                if message is not None and message.header.keyframe:
                    wanted.discard(self.streams[start])
            if not wanted:
                return start
        return 0

    def coverage(self) -> dict[str, list[int]]:
        """How many messages each stream has in each of up to BINS equal bins of time."""
        bins = min(BINS, max(1, len(self) // (GROUPS_PER_BIN * len(self.names))))
        parts = np.minimum(bins * self.seconds / max(self.seconds.max(), 1e-9), bins - 1).astype(int)
        return {
            name: np.bincount(parts[self.streams == index], minlength=bins).tolist()
            for index, name in enumerate(self.names)
        }

    def _topic(self, number: int) -> str:
        return self.recording.files[self._files[number]].channels[int(self._places["channel"][number])].topic


class RecordedShow:
    """A recording that is played to each page by a `Player` in its own thread."""

    def __init__(self, path: str | Path, models: Models) -> None:
        self.path, self.models = path, models
        self.line = TimeLine(path)
        self.groups = 0
        self._coverage = self.line.coverage()
        self._players: dict[OpenPage, Player] = {}

    def join(self, page: OpenPage) -> None:
        self._players[page] = Player(self, page)

    def leave(self, page: OpenPage) -> None:
        player = self._players.pop(page, None)
        if player is not None:
            player.close()

    def take_order(self, page: OpenPage, order: dict[str, Any]) -> None:
        self._players[page].take_order(order)

    def state(self, page: OpenPage) -> dict[str, Any]:
        player = self._players.get(page)
        streams = [
            gather_facts(info)
            | {"id": name, "coverage": self._coverage[name], "malformed": 0, "counts": {}}
            | {"problem": player.pictures.problems.get(name, "") if player else ""}
            for name, info in self.line.infos.items()
        ]
        state = {"kind": "state", "live": False, "name": Path(self.path).name, "streams": streams}
        state |= {"damage": self.line.recording.damage[:5], "seconds": float(self.line.seconds.max())}
        return state | ({"playing": player.playing, "speed": player.speed} if player else {})


class Player:
    """Plays a recording to one page, from its beginning, until `close`."""

    def __init__(self, show: RecordedShow, page: OpenPage) -> None:
        self.playing, self.speed = True, 1.0
        self.pictures = Pictures(show.models)
        self._show, self._line, self._page = show, show.line, page
        self._next = 0
        self._seek: float | None = None
        self._due = time.monotonic()
        self._closed = False
        self._changed = threading.Condition()
        recording = self._line.recording
        self._reader = TokenReader(recording.damaged)
        self._cameras = {name: RecordedCamera(recording, name) for name in recording.cameras}
        self._events = EventLog(str(show.path), log, "file")
        self._thread = threading.Thread(target=self._run, name="view player", daemon=True)
        self._thread.start()

    def take_order(self, order: dict[str, Any]) -> None:
        """Take an order: `play`, `pause`, `speed` (times real time) or `seek` (to seconds); ValueError for others."""
        with self._changed:
            if order["op"] == "seek":
                self._seek = float(order["at"])
            elif order["op"] == "speed":
                self.speed = min(max(float(order["times"]), SPEEDS[0]), SPEEDS[1])
            elif order["op"] in ("play", "pause"):
                self.playing = order["op"] == "play"
                if self.playing and self._next >= len(self._line):
                    self._seek = 0.0
            else:
                raise ValueError(f"op {order['op']!r}, expected play, pause, seek, speed or pictures")
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._events.finish()
        self.pictures.close()

    def _run(self) -> None:
        """Go to what is sought at once, and show each next message when it is due."""
        while self._wait_for_turn():
            with self._changed:
                seek, self._seek = self._seek, None
            with outlive(self._events):
                if seek is None:
                    self._show_message(self._next)
                else:
                    self._go_to(seek)
            if seek is None:
                self._next += 1
                self._due = max(self._due, time.monotonic() - LATE_S) + self._step_s()
            else:
                self._due = time.monotonic()

    def _wait_for_turn(self) -> bool:
        """Wait until the page seeks, or plays and the next message is due; False once the player is closed."""
        with self._changed:
            while not self._closed and self._seek is None:
                self.playing = self.playing and self._next < len(self._line)
                if not self.playing:
                    self._changed.wait()
                    self._due = time.monotonic()
                elif (wait_s := self._due - time.monotonic()) > 0:
                    self._changed.wait(wait_s)
                else:
                    break
            return not self._closed

    def _step_s(self) -> float:
        """Seconds of playing time from the last message to the next one."""
        if self._next >= len(self._line):
            return 0.0
        return float(self._line.seconds[self._next] - self._line.seconds[self._next - 1]) / self.speed

    def _go_to(self, seconds: float) -> None:
        """Decode up to the last messages before `seconds`, and show the last one of each stream."""
        last = max(0, int(np.searchsorted(self._line.seconds, seconds, "right")) - 1)
        self._reader = TokenReader(self._line.recording.damaged)
        newest = {stream: number for number, stream in enumerate(self._line.streams[: last + 1])}
        for number in range(self._line.keyframe_before(last), last + 1):
            if self._closed or self._seek is not None:
                return
            self._show_message(number, quietly=number not in newest.values())
        self._next = last + 1

    def _show_message(self, number: int, quietly: bool = False) -> None:
        message = self._line.read(number, self._reader)
        if message is None:
            return
        info = self._line.infos[message.stream]
        wanted = self._page.wants_pictures  # else the page decodes by itself, and needs messages in between as well
        picture = self.pictures.decode_last(message, info, wanted)
        if quietly and wanted:
            return
        self._show.groups += 1
        head = {"id": message.stream, "at": float(self._line.seconds[number]), "stages_ms": time_stages(message)}
        head |= {"dropped": message.header.dropped, "lost": message.lost}
        camera = self._cameras.get(message.stream) if wanted else None
        source = camera.image_at(int(self._line.times_ns[number])) if camera else None
        self._page.take(Group(head, message, picture, source))
