"""The ingest node: cameras through the core to the publisher, with everything that waits, fails or tells the time.

    node = IngestNode(load_rig("configs/demo.yaml"))
    signal.signal(signal.SIGTERM, lambda *_: node.stop())
    summary = node.run()

The loop is thin: capture threads prepare and queue, `IngestCore` decides and encodes, `Publisher` sends.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from streamtok.engine.loading import default_engine, load, pick_device
from streamtok.ingest.core import IngestCore
from streamtok.ingest.token_grid import grid_shape
from streamtok.node.capture import Capture, Captured
from streamtok.node.metrics import Metrics, PrometheusServer
from streamtok.node.process import notify_systemd
from streamtok.node.rig import batches_of, check_publishing, is_paced, make_source, stream_options
from streamtok.settings.errors import blame_settings
from streamtok.settings.rig import RigSettings
from streamtok.types import TokenGroup
from streamtok.wire.describe import describe
from streamtok.wire.publisher import Publisher, ReaderTooSlow
from streamtok.wire.security import CurveServer

log = logging.getLogger("streamtok.ingest")

IDLE_S = 0.02  # how long the loop waits for a frame before it looks at the control socket again
STOP_BUDGET_S = 0.6  # of the 2 s that a node has to stop, for last partial groups; the sockets linger for 1 s
RECORDER_S = 0.5  # likewise, for what the recorder has not written yet
UPDATE_S = 0.1
STATUS_S = 1.0
COUNTED_HERE = ("published", "published_bytes", "publish_errors", "deadline_misses")  # exported from the start, as 0
HUNG_S = 30.0  # as WatchdogSec in the unit of docs/operations.md: more than any step takes


class IngestNode:
    """One process for the cameras of a rig; `run` returns the summary that `--json` prints.

    `stop` may be called from a signal handler or another thread. `on_update`, if given, is called with the node on
    every turn of the loop (a live display). The tokenizer is loaded from the settings unless it is given. `failures`
    says what went wrong with single sources while the others went on.
    """

    def __init__(
        self,
        settings: RigSettings,
        tokenizer: Any = None,
        on_update: Callable[["IngestNode"], None] | None = None,
    ) -> None:
        with blame_settings():
            check_publishing(settings)  # before cameras are opened and a model is loaded for nothing
        self.settings, self.tokenizer, self.on_update = settings, tokenizer, on_update
        self.metrics = Metrics({"node": settings.node, "model": settings.model})
        self.core: Any = None  # the IngestCore, once the node has started
        self.recorder: Any = None
        self.metrics_port: int | None = None
        self.failures: list[str] = []
        self.captures: dict[str, Capture] = {}
        self.streams = {stream.name: stream for stream in settings.resolved()}
        packets = settings.record is not None and settings.record_frames == "lossless" and not settings.publish_frames
        with blame_settings():
            self.sources = {name: make_source(stream, packets) for name, stream in self.streams.items()}
        for name in self.streams:
            for counter in COUNTED_HERE:
                self.metrics.set_total(counter, name, 0)
        self._stopping = threading.Event()
        self._wake = threading.Condition()
        self._announced: dict[str, tuple | None] = dict.fromkeys(self.streams)
        self._flushed: set[str] = set()
        self._latest: dict[str, Captured] = {}  # the frame that was last fed, by stream
        self._held: dict[str, list[Captured]] = {name: [] for name in self.streams}  # taken and not fed yet
        self._turned: float | None = None  # when the loop last came by (monotonic s); None before the node is bound
        self._update_due = self._status_due = 0.0
        self._seconds = 0.0

    def stop(self) -> None:
        """Ask the node to end; it does so within 2 seconds."""
        self._stopping.set()

    def hung(self) -> list[str]:
        """Why a supervisor should start this process anew: its loop stands still for HUNG_S. Else nothing."""
        still = 0.0 if self._turned is None else time.monotonic() - self._turned
        return [f"hung: the loop has not turned for {still:.0f} s"] if still > HUNG_S else []

    def unready(self) -> list[str]:
        """What tokens wait for: the node is bound, its model warm, and every camera that is `required` has delivered.

        Nothing, once that is so, until it is told to stop. Where frames wait for readers (`wait_subscribers`) it is
        ready without them.
        """
        if self._turned is None:
            return ["starting: not bound yet"]
        if self._stopping.is_set():
            return ["stopping"]
        if self.settings.wait_subscribers and not self.captures:
            return []
        without = [name for name, source in self.sources.items() if source.required and not source.counts["frames"]]
        return [f"{name}: no frame yet" for name in without]

    def run(self) -> dict:
        """Run until every source has ended or `stop` is called; returns the summary.

        Raises SettingsError, OSError or RuntimeError for what keeps the node from starting, OSError from publishing;
        ValueError for a device that is not there, and a source that is nothing readable.
        """
        with ExitStack() as stack:
            self._start(stack)
            started = time.monotonic()
            try:
                self._loop()
                self._seconds = time.monotonic() - started
                self._finish()
            finally:
                for capture in self.captures.values():
                    capture.close(timeout=0.2)
                for lane in self.core.lanes.values():  # a loop that failed has flushed none of them
                    lane.log.finish()
        return self.summary()

    def _start(self, stack: ExitStack) -> None:
        settings = self.settings
        if settings.metrics is not None:
            probes = {"/healthz": self.hung, "/readyz": self.unready}
            server = PrometheusServer(self.metrics, settings.metrics, settings.metrics_address, probes)
            stack.callback(server.close)
            self.metrics_port = server.port
            log.info("event=metrics url=http://%s:%d/metrics", settings.metrics_address, server.port)
        for source in self.sources.values():
            stack.enter_context(source)
        if self.tokenizer is None:
            pick_device(settings.device)  # by itself: a GPU that is not there yet is no mistake in the settings
        with blame_settings():
            self._set_up(stack)
        log.info("event=bound endpoint=%s control=%s", self.publisher.endpoint, self.publisher.control_endpoint)
        self._turned = time.monotonic()
        notify_systemd("READY=1")
        self._wait_for_subscribers()
        if not self._stopping.is_set():
            self._start_captures()

    def _set_up(self, stack: ExitStack) -> None:
        """What the settings ask for, sized for the sources, which are open: core, publisher, recorder."""
        settings = self.settings
        options = {name: stream_options(stream, self.sources[name].live) for name, stream in self.streams.items()}
        rates = {name: source.fps for name, source in self.sources.items()}
        batches = [] if settings.batch_wait_ms is None else batches_of(options, rates)
        if self.tokenizer is None:
            sizes = [option.size or self.sources[name].size for name, option in options.items()]
            largest = max(filter(None, sizes), default=None, key=math.prod)
            slots = max(map(len, batches), default=1)
            self.tokenizer = load(
                settings.model,
                settings.deterministic,
                engine="eager" if settings.deterministic else settings.engine or default_engine(settings.device),
                size=largest or (256, 448),
                device=settings.device,
                threads=settings.threads,
                slots_per_step=slots if slots > 1 else None,  # one is what every engine has unless it says otherwise
            )
        wait_ms = settings.batch_wait_ms or 0.0
        self.core = IngestCore(
            self.tokenizer, options, context=settings.context, batches=batches, batch_wait_ms=wait_ms
        )
        self.publisher = stack.enter_context(self._make_publisher())
        self.recorder = self._make_recorder(stack)
        for name, source in self.sources.items():
            if source.size is not None:
                self.core.open(name, source.size)
            if source.size is not None or options[name].size is not None:
                self.core.warm_up(name)
            if source.size is not None:
                self._announce(name)

    def _make_publisher(self) -> Publisher:
        lanes = self.core.lanes.values()
        rates = [(source.fps or 30.0) / self.core.group_frames for source in self.sources.values()]
        return Publisher(
            self.settings.bind,
            self.settings.control,
            node=self.settings.node,
            curve=CurveServer.load(self.settings.curve) if self.settings.curve else None,
            insecure=self.settings.insecure,
            ipc_group=self.settings.ipc_group,
            lossless=any(lane.options.policy == "lossless" for lane in lanes),
            messages_per_second=max(64.0, sum(rates)),
            stats=self.summary,
            stop=self._stopping.is_set,
        )

    def _make_recorder(self, stack: ExitStack) -> Any:
        """The recorder of --record, or None."""
        settings = self.settings
        if settings.record is None:
            return None
        from streamtok.recording.recorder import Recorder, RecorderOptions

        waits = all(lane.options.policy == "lossless" for lane in self.core.lanes.values())
        limits = settings.record_max_size, settings.record_max_minutes, settings.record_min_free
        options = RecorderOptions.limited(settings.record_frames, *limits, wait=waits)
        recorder = Recorder(settings.record, options, metadata={"config": settings.model_dump(mode="json")})
        stack.callback(self._close_recorder)
        return recorder

    def _close_recorder(self) -> None:
        """Write what waits; after `stop` only as long as there is time for it."""
        self.recorder.close(RECORDER_S if self._stopping.is_set() else None)
        self._update_recording()
        if self.recorder.error:
            self.failures.append(f"recording stopped: {self.recorder.error}")

    def _wait_for_subscribers(self) -> None:
        """Hold the first frame until enough readers have joined."""
        wanted = self.settings.wait_subscribers
        if wanted:
            log.info("event=waiting subscribers=%d", wanted)
        while wanted and not self._stopping.is_set() and not self.publisher.wait_subscribers(wanted, timeout=0.2):
            self._update()

    def _start_captures(self) -> None:
        """Recordings are opened anew, so that their times start when their frames do; cameras begin with the newest
        frame, for what they took while the model was loaded would only make a gap."""
        for name, source in self.sources.items():
            if source.live:
                source.skip_to_newest()
            else:
                source.close()
                source.open()
            lossless = self.core.lane(name).options.policy == "lossless"
            self.captures[name] = Capture(
                source, self.core.prepare, capacity=self.core.queue_frames, lossless=lossless, wake=self._wake
            )
        for capture in self.captures.values():
            capture.start()

    def _loop(self) -> None:
        while not self._stopping.is_set():
            for name in self.captures:  # a turn may take several steps, and readers are not to wait for all of them
                self._serve()
                self._update()
                self._advance(name)
            for name, held in self._held.items():
                if held:  # the next frame of this one is there: its group waits no longer
                    self._publish(self.core.settle(name))
            self._publish(self.core.overdue())
            with self._wake:
                if any(self._held.values()) or any(capture.depth for capture in self.captures.values()):
                    continue
                if all(capture.finished for capture in self.captures.values()):
                    break
                self._wake.wait(min(IDLE_S, self.core.patience()))

    def _advance(self, name: str) -> None:
        """Encode and publish what waits for one stream, up to a group that waits for those of other cameras: what
        comes behind that is held until they have had their turn."""
        capture, held = self.captures[name], self._held[name]
        taken = capture.take()
        for item in taken:
            if self.settings.publish_frames:
                self.publisher.publish_frame(item.frame)
            if self.recorder is not None:
                self.recorder.write_frame(item.frame)
            self.metrics.observe("prepare", name, (item.ready_ns - item.arrived_ns) / 1e9)
        held[:] = self.core.choose(name, held + taken)
        if capture.finished and not held:
            self._flush(name)
        while held and not self.core.waits(name) and not self._stopping.is_set():
            item = held.pop(0)
            groups = self.core.restart(name) if item.after_gap else []
            self._latest[name] = item
            self._publish(groups + self.core.feed(item.prepared))

    def _flush(self, name: str) -> None:
        if name not in self._flushed:
            self._flushed.add(name)
            self._publish(self.core.settle(name))
            self._latest.pop(name, None)  # a tail that is filled up has waited for the end: its latency says nothing
            self._publish(self.core.flush(name))

    def _publish(self, groups: list[TokenGroup]) -> None:
        for group in groups:
            self._publish_group(group)

    def _publish_group(self, group: TokenGroup) -> None:
        item = self._latest.get(group.stream)
        encoded_ns = time.monotonic_ns()
        if group.image_size == self.core.lane(group.stream).image_size:
            self._announce(group.stream)  # a group that was padded at a change of size is of the size before
        try:
            header = self.publisher.publish(group)
        except ReaderTooSlow as error:
            self.metrics.count("publish_errors", group.stream)
            if not self._stopping.is_set():
                raise
            log.warning("stream=%s event=unsent reason=%r", group.stream, error)
            return
        if self.recorder is not None:
            self.recorder.write_group(header, group.tokens)
        self.metrics.observe("encode", group.stream, group.encode_ns / 1e9)
        self.metrics.observe("publish", group.stream, (time.monotonic_ns() - encoded_ns) / 1e9)
        self.metrics.count("published", group.stream)
        self.metrics.count("published_bytes", group.stream, group.tokens.nbytes)
        if item is not None and item.prepared.frame_id == group.frame_ids[-1]:
            self._observe_latency(group, item, encoded_ns, header.publish_ns)

    def _observe_latency(self, group: TokenGroup, item: Captured, encoded_ns: int, published_ns: int) -> None:
        """From the capture of the group's last frame to its message; a recording's frames count from their arrival."""
        source = self.sources[group.stream]
        self.metrics.observe("queue", group.stream, max(0, encoded_ns - group.encode_ns - item.ready_ns) / 1e9)
        total = (published_ns - (item.frame.capture_ns if source.live else item.arrived_ns)) / 1e9
        self.metrics.observe("total", group.stream, total)
        if source.fps and is_paced(source) and total > self.core.group_frames / source.fps:
            self.metrics.count("deadline_misses", group.stream)

    def _announce(self, name: str) -> None:
        """Tell readers what a stream is, at its start and when its size changes."""
        lane = self.core.lane(name)
        if self._announced[name] != (lane.source_size, lane.image_size):
            self._announced[name] = lane.source_size, lane.image_size
            stream, rate = self.streams[name], self.sources[name].fps
            facts = {"keyframe_interval": stream.keyframe_interval, "metadata": stream.metadata}
            facts["compression"] = self.settings.compression
            info = self.publisher.add_stream(describe(self.core, name, frame_rate=rate, **facts))
            if self.recorder is not None:
                self.recorder.add_stream(info)

    def _serve(self) -> None:
        for event in self.publisher.poll():
            if event.kind == "keyframe":
                for name in self.streams if event.stream is None else [event.stream]:
                    self.core.request_keyframe(name)

    def _update(self, last: bool = False) -> None:
        """Bring the metrics up to date, and tell readers and the display: every UPDATE_S, and at the end."""
        self._turned = time.monotonic()
        if time.monotonic() < self._update_due and not last:
            return
        self._update_due = time.monotonic() + UPDATE_S
        for name, source in self.sources.items():
            lane = self.core.lane(name)
            for counter in ("groups", "keyframes", "dropped", "gaps", "nonfinite", "repeated", "resizes"):
                self.metrics.set_total(counter, name, lane.counts[counter])
            for counter in ("frames", "reconnects", "frozen", "damaged", "missed"):
                self.metrics.set_total(counter, name, source.counts[counter])
            self.metrics.gauge("up", name, source.state == "up")
            self.metrics.gauge("is_frozen", name, source.frozen)
            self.metrics.gauge("epoch", name, lane.epoch)
            self.metrics.gauge("subscribers", name, self.publisher.subscribers(name))
            self.metrics.gauge("queue_depth", name, self.captures[name].depth if name in self.captures else 0)
        self._update_recording()
        if self.on_update is not None:
            self.on_update(self)
        if time.monotonic() >= self._status_due:
            self._status_due = time.monotonic() + STATUS_S
            self.publisher.publish_status(self.summary())
            notify_systemd("WATCHDOG=1")

    def _update_recording(self) -> None:
        for name in self.sources if self.recorder is not None else ():
            self.metrics.gauge("recording", name, not self.recorder.error)
            self.metrics.set_total("unrecorded", name, self.recorder.unrecorded[name])

    def _finish(self) -> None:
        """The last partial groups; after `stop` only as far as the time to stop allows."""
        notify_systemd("STOPPING=1")
        for capture in self.captures.values():
            capture.stop()
            if capture.error is not None:
                self.failures.append(f"{capture.stream}: {capture.error}")
        deadline = time.monotonic() + STOP_BUDGET_S
        step_s = self.metrics.latency_ms().get("encode", {}).get("p99", 0.0) / 1e3
        for name in self.captures:
            if self._stopping.is_set() and time.monotonic() + step_s > deadline:
                self.core.discard(name)
                self._flushed.add(name)
            self._flush(name)
        self._update(last=True)

    def summary(self) -> dict:
        """What `--json` prints: per stream counts, latency in ms by stage, frames per second of the whole node."""
        names = "frames", "groups", "keyframes", "dropped", "gaps", "damaged", "published"
        streams: dict[str, dict] = {}
        for name in self.streams:
            size = self.core.lane(name).image_size if self.core is not None else None
            shape = grid_shape(self.core.config, *size)[-2:] if size else (0, 0)
            streams[name] = {counter: self.metrics.counter(counter, name) for counter in names}
            streams[name]["tokens_per_group"] = shape[0] * shape[1]
        frames = sum(stream["frames"] for stream in streams.values())
        fps = round(frames / self._seconds, 2) if self._seconds else 0.0
        return {"streams": streams, "latency_ms": self.metrics.latency_ms(), "fps": fps}


def describe_summary(summary: dict) -> str:
    """The summary for people."""
    lines = []
    for name, stream in summary["streams"].items():
        lines.append(
            f"{name}: {stream['frames']} frames in {stream['groups']} groups of {stream['tokens_per_group']} tokens "
            f"({stream['keyframes']} keyframes), {stream['published']} published, {stream['dropped']} frames dropped, "
            f"{stream['gaps']} gaps, {stream['damaged']} damaged"
        )
    for stage, values in summary["latency_ms"].items():
        lines.append(f"{stage:>8} ms: " + ", ".join(f"{name} {value:.1f}" for name, value in values.items()))
    return "\n".join([*lines, f"{summary['fps']:.1f} frames per second in all"])
