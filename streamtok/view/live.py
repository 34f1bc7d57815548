"""Shows token streams of running nodes on pages; nodes are read, and so loaded, only while a page is open."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

from streamtok.event_log import EventLog
from streamtok.io.images.stills import DamagedFrame, encode_jpeg
from streamtok.io.zmq_frames import decode_picture
from streamtok.preprocessing.pixels import RawImage
from streamtok.view.pictures import Group, Models, Pictures, gather_facts, outlive, time_stages
from streamtok.view.server import OpenPage
from streamtok.wire.message import FrameMessage, TokenMessage
from streamtok.wire.security import CurveClient
from streamtok.wire.subscriber import QUEUE_BYTES, Subscription

log = logging.getLogger("streamtok.view")

WAIT_S = 0.2
BEHIND_S = 1.0  # a decoder with a larger backlog skips to the next keyframe, to catch up
KEPT_FRAMES = 256  # camera images of a node that wait for their group, at most QUEUE_BYTES of them


class Viewer(Protocol):
    """A page, or another program that shows streams."""

    wants_pictures: bool

    def take(self, group: Group) -> None:
        """Show a group."""


class LiveShow:
    """Any number of nodes, by endpoint, which are read from the first viewer's `join` to the last one's `leave`."""

    def __init__(self, endpoints: Sequence[str], models: Models, curve: CurveClient | None = None) -> None:
        self.endpoints, self.models, self.curve = endpoints, models, curve
        self.groups = 0
        self._viewers: set[Viewer] = set()
        self._readers: list[Reader] = []
        self._lock = threading.Lock()

    def join(self, page: Viewer) -> None:
        with self._lock:
            self._viewers.add(page)
            if not self._readers:
                self._readers = [Reader(number, self) for number in range(len(self.endpoints))]

    def leave(self, page: Viewer) -> None:
        with self._lock:
            self._viewers.discard(page)
            if self._viewers:
                return
            for reader in self._readers:
                reader.close()
            self._readers = []

    def take_order(self, page: OpenPage, order: dict[str, Any]) -> None:
        raise ValueError(f"op {order['op']!r}, expected 'pictures'")

    def state(self, page: OpenPage) -> dict[str, Any]:
        readers = list(self._readers)
        nodes = [{"endpoint": reader.endpoint, "connected": reader.subscription.connected} for reader in readers]
        streams = [stream for reader in readers for stream in reader.streams()]
        return {"kind": "state", "live": True, "nodes": nodes, "streams": streams}

    def wants_pictures(self) -> bool:
        """Whether a viewer wants pictures that are decoded here."""
        return any(viewer.wants_pictures for viewer in list(self._viewers))

    def deliver(self, group: Group) -> None:
        """Show a group to all viewers."""
        self.groups += 1
        for viewer in list(self._viewers):
            viewer.take(group)


class Reader:
    """Reads one node in its own thread, until `close`."""

    def __init__(self, number: int, show: LiveShow) -> None:
        self.number, self.endpoint = number, show.endpoints[number]
        self.subscription: Subscription[TokenMessage | FrameMessage] = Subscription(
            self.endpoint, kinds=("frames", "tokens", "info"), join="epoch", curve=show.curve
        )
        self._show = show
        self._pictures = Pictures(show.models)
        self._totals: dict[str, Counter[str]] = {}
        self._frames: dict[tuple[str, str, int], FrameMessage] = {}  # by stream, session and id, the oldest first
        self._events = EventLog(self.endpoint, log, "endpoint")
        self._thread = threading.Thread(target=self._run, name=f"view {self.endpoint}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop reading."""
        self.subscription.close()
        self._thread.join()
        self._events.finish()
        self._pictures.close()

    def streams(self) -> list[dict[str, Any]]:
        """The facts of each stream, with its counts and problems."""
        counts = self.subscription.counts()
        malformed = sum(self.subscription.rejects.counts.values())
        return [
            gather_facts(info)
            | {"id": f"{self.number}/{name}", "connected": self.subscription.connected, "malformed": malformed}
            | {"problem": self._pictures.problems.get(name, ""), "counts": counts.get(name, {})}
            for name, info in sorted(dict(self.subscription.infos).items())
        ]

    def _run(self) -> None:
        while not self.subscription.ended:
            message = self.subscription.get(WAIT_S)
            if isinstance(message, FrameMessage):
                self._keep_frame(message)
            elif message is not None:
                with outlive(self._events):
                    self._show_group(message)

    def _keep_frame(self, message: FrameMessage) -> None:
        header = message.header
        self._frames[header.stream, header.session, header.frame_id] = message
        kept = sum(len(frame.payload) for frame in self._frames.values())
        while len(self._frames) > KEPT_FRAMES or kept > QUEUE_BYTES:
            kept -= len(self._frames.pop(next(iter(self._frames))).payload)

    def _show_group(self, message: TokenMessage) -> None:
        header, info = message.header, self.subscription.info_of(message)
        totals = self._totals.setdefault(message.stream, Counter())
        totals += Counter(groups=1, keyframes=int(header.keyframe), dropped=header.dropped)
        totals += Counter(gaps=int(header.dropped > 0), lost=message.lost, bytes=len(message.payload))
        self._totals[message.stream] = totals
        if message.unreadable:
            return  # the subscription counts it
        stages, picture = time_stages(message), None
        plotted = bool(stages) and not message.catch_up and not (info and info.replay)
        if info is not None:
            late_s = (time.time_ns() - info.to_utc(header.publish_ns)) / 1e9
            stages["travel"] = 1e3 * late_s
            began = time.perf_counter()
            wanted = self._show.wants_pictures() and (message.catch_up or late_s < BEHIND_S)
            picture = self._pictures.decode_last(message, info, wanted)
            stages["decode"] = 1e3 * (time.perf_counter() - began)
        head = {"id": f"{self.number}/{message.stream}", "totals": totals, "catch_up": message.catch_up}
        head |= {"stages_ms": stages if plotted else {}}
        source = self._source_of(message)
        utc_ns = message.capture_ns if info is None else info.to_utc(message.capture_ns)
        self._show.deliver(Group(head, message, picture, source, utc_ns))

    def _source_of(self, message: TokenMessage) -> bytes | None:
        """The camera's image of a group's last frame as a JPEG or PNG file; None if the node does not publish it."""
        header = message.header
        found = self._frames.get((header.stream, header.session, header.frame_ids[-1]))
        if found is None:
            return None
        if found.header.encoding in ("jpeg", "mjpeg", "png"):
            return bytes(found.payload)
        try:
            picture = decode_picture(found.header, found.payload)
        except (DamagedFrame, ValueError):
            return None
        return encode_jpeg(picture.rgb() if isinstance(picture, RawImage) else picture)
