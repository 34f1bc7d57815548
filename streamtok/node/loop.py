"""The loop of an ingest node: it feeds frames from captures to the core, and sends groups to publisher and recorder."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from streamtok.ingest.core import IngestCore
from streamtok.io.base import Source
from streamtok.io.cameras.camera import find_capture
from streamtok.io.capture import Capture, Captured
from streamtok.node.metrics import Metrics
from streamtok.node.process import notify_systemd
from streamtok.node.stream_metrics import copy_recording, copy_totals, count_published, observe_latency
from streamtok.node.summary import summarize
from streamtok.recording.recorder import Recorder
from streamtok.types import TokenGroup
from streamtok.wire.errors import ReaderTooSlow
from streamtok.wire.publisher import Publisher

log = logging.getLogger("streamtok.ingest")

IDLE_S = 0.02  # how long the loop waits for a frame before it polls the publisher again
STOP_BUDGET_S = 0.6  # of the 2 s that a node has to stop, for last partial groups; the sockets linger for 1 s
CLOSE_S = 0.2  # likewise, for captures to end by themselves
UPDATE_S = 0.1
STATUS_S = 1.0
MOST_STEPS = 4  # steps that a frame may wait for: another camera's turn, and those of its own turn (docs/operations.md)
STEPS_KEPT = 9  # latest steps whose median is the step time, robust against a single delay


@dataclass(frozen=True)
class NodeParts:
    """The parts of a node that turn frames into messages and recordings."""

    core: IngestCore
    publisher: Publisher
    recorder: Recorder | None = None


class IngestLoop:
    """Runs until every source has ended or `stopping` is set.

    With `publish_frames` readers get the camera images too. `on_update` is called every UPDATE_S. `turned` is the time
    of the last turn (monotonic s), and `failures` describes sources that failed. `seconds` is the loop's run time, once
    it has ended.
    """

    def __init__(
        self,
        parts: NodeParts,
        sources: Mapping[str, Source],
        metrics: Metrics,
        stopping: threading.Event,
        *,
        publish_frames: bool = False,
        on_update: Callable[[], None] = lambda: None,
    ) -> None:
        self.core, self.publisher, self.recorder = parts.core, parts.publisher, parts.recorder
        self.sources, self.metrics = sources, metrics
        self.publish_frames, self.on_update = publish_frames, on_update
        self.captures: dict[str, Capture] = {}
        self.failures: list[str] = []
        self.turned = time.monotonic()
        self.seconds = 0.0
        self._stopping = stopping
        self._wake = threading.Event()
        self._flushed: set[str] = set()
        self._latest: dict[str, Captured] = {}  # the frame that was last fed, by stream
        self._steps_ns: deque[int] = deque([0], maxlen=STEPS_KEPT)
        self._update_due = self._status_due = 0.0

    @property
    def stopping(self) -> bool:
        """Whether the node was asked to end."""
        return self._stopping.is_set()

    def run(self) -> None:
        """Read, encode and publish to the end; raises OSError from publishing."""
        started = time.monotonic()
        try:
            if not self.stopping:
                self._start_captures()
            self._loop()
            self.seconds = time.monotonic() - started
            self._finish()
        finally:
            for capture in self.captures.values():
                capture.stop()
            for capture in self.captures.values():
                capture.close(CLOSE_S)
                capture.source.close()  # unblocks a read that still waits
            self.core.finish_logs()  # needed if the loop failed, and so did not flush the streams

    def wait_for_subscribers(self, wanted: int) -> None:
        """Wait until `wanted` readers have joined, or the node is stopped."""
        if wanted:
            log.info("event=waiting subscribers=%d", wanted)
        while wanted and not self.stopping and not self.publisher.wait_subscribers(wanted, timeout=0.2):
            self._update()

    def summary(self) -> dict[str, Any]:
        """The summary for `--json`: counts per stream, latency in ms by stage, frames per second of all streams."""
        return summarize(self.metrics, self.sources, self.core, self.seconds)

    def _start_captures(self) -> None:
        """Start a capture for each source.

        Recordings are reopened, so that their times start with their frames. Cameras begin with the newest frame, since
        older ones, from while the model was loaded, would only make a gap.
        """
        for name, source in self.sources.items():
            if not source.live:
                source.close()
                source.open()
            lane = self.core.lane(name)
            capture = self.captures[name] = find_capture(source)
            lossless = lane.options.policy == "lossless"
            capture.begin(self.core.prepare, capacity=lane.most_waiting, lossless=lossless, wake=self._wake)

    def _loop(self) -> None:
        while not self.stopping:
            for name in self.captures:  # poll between cameras, since a turn may take several steps
                self._serve()
                self._update()
                self._advance(name)
            for name, capture in self.captures.items():
                if capture.held:  # its next frame has come, so its group waits no longer for other cameras
                    self._publish(self.core.settle(name))
            self._publish(self.core.overdue())
            self._wake.clear()
            if any(capture.depth for capture in self.captures.values()):
                continue
            if all(capture.finished for capture in self.captures.values()):
                break
            self._wake.wait(min(IDLE_S, self.core.patience()))

    def _advance(self, name: str) -> None:
        """Encode and publish a stream's waiting frames, up to a group that waits for other cameras to share a step.

        Later frames are held until those cameras have had their turn.
        """
        capture, lane = self.captures[name], self.core.lane(name)
        for item in capture.arrivals():
            if self.publish_frames:
                self.publisher.publish_frame(item.frame)
            if self.recorder is not None:
                self.recorder.write_frame(item.frame)
            self.metrics.observe("prepare", name, (item.ready_ns - item.arrived_ns) / 1e9)
        capture.limit(lane.room_for)
        if capture.finished:
            self._flush(name)
        waited_ns = MOST_STEPS * self._step_ns
        while not self.core.waits(name) and not self.stopping and (captured := capture.pop(waited_ns)) is not None:
            self._feed(name, captured)

    @property
    def _step_ns(self) -> int:
        """The median duration of recent steps, ns."""
        return sorted(self._steps_ns)[len(self._steps_ns) // 2]

    def _feed(self, name: str, item: Captured) -> None:
        groups = []
        if item.after_gap:
            self.core.lane(name).frame_rate = self.sources[name].fps
            groups = self.core.restart(name)
        self._latest[name] = item
        self._publish(groups + self.core.feed(item.prepared or item.frame, item.behind))

    def _flush(self, name: str) -> None:
        if name not in self._flushed:
            self._flushed.add(name)
            self._publish(self.core.settle(name))
            self._latest.pop(name, None)  # a padded tail has waited for the end, so its latency is not measured
            self._publish(self.core.flush(name))

    def _publish(self, groups: list[TokenGroup]) -> None:
        for group in groups:
            self._publish_group(group)

    def _publish_group(self, group: TokenGroup) -> None:
        item = self._latest.get(group.stream)
        self._steps_ns.append(group.encode_ns)
        if item is not None and self.captures[group.stream].is_too_old(item, (MOST_STEPS + 1) * self._step_ns):
            self.core.lane(group.stream).retract(group)  # the process was suspended during the step
            return
        encoded_ns, before = time.monotonic_ns(), self.publisher.bytes_of(group.stream)
        try:
            header = self.publisher.publish(group)
        except ReaderTooSlow as error:
            self.metrics.count("publish_errors", group.stream)
            if not self.stopping:
                raise
            log.warning("stream=%s event=unsent reason=%r", group.stream, error)
            return
        lane = self.core.lane(group.stream)
        lane.note_sent(group, self.publisher.bytes_of(group.stream) - before)
        if self.recorder is not None:
            self.recorder.write_group(header, group.tokens)
        copy_totals(self.metrics, self.sources[group.stream], self.core.lane(group.stream))  # to fit `published`
        count_published(self.metrics, group, time.monotonic_ns() - encoded_ns)
        if item is not None and item.frame.frame_id == group.frame_ids[-1]:
            source = self.sources[group.stream]
            observe_latency(self.metrics, source, item, group, encoded_ns, header.publish_ns)

    def _serve(self) -> None:
        for event in self.publisher.poll():
            if event.kind == "keyframe":
                self.core.request_keyframe(event.stream)

    def _update(self, last: bool = False) -> None:
        """Update metrics, display, status messages and the watchdog: every UPDATE_S, and at the end (`last`)."""
        self.turned = time.monotonic()
        if time.monotonic() < self._update_due and not last:
            return
        self._update_due = time.monotonic() + UPDATE_S
        for name, source in self.sources.items():
            source.check_stalled()
            copy_totals(self.metrics, source, self.core.lane(name))
            self.metrics.gauge("subscribers", name, self.publisher.subscribers(name))
            capture = self.captures.get(name)
            self.metrics.gauge("queue_depth", name, capture.depth if capture else 0)
            self.metrics.gauge("behind_seconds", name, capture.age_ns / 1e9 if capture else 0)
        if self.recorder is not None:
            copy_recording(self.metrics, self.recorder, self.sources)
        self.on_update()
        if time.monotonic() >= self._status_due:
            self._status_due = time.monotonic() + STATUS_S
            behind_ms = {name: round(capture.age_ns / 1e6, 3) for name, capture in self.captures.items()}
            self.publisher.publish_status(self.summary() | {"behind_ms": behind_ms})
            notify_systemd("WATCHDOG=1")

    def _finish(self) -> None:
        """Flush the last partial groups; after `stop`, only as many as STOP_BUDGET_S allows."""
        notify_systemd("STOPPING=1")
        for capture in self.captures.values():
            capture.stop()
            if capture.error is not None:
                self.failures.append(f"{capture.stream}: {capture.error}")
        deadline = time.monotonic() + STOP_BUDGET_S
        step_s = self.metrics.latency_ms().get("encode", {}).get("p99", 0.0) / 1e3
        for name in self.captures:
            if self.stopping and time.monotonic() + step_s > deadline:
                self.core.discard(name)
                self._flushed.add(name)
            self._flush(name)
        self._update(last=True)
