"""The ingest node: it runs cameras through the core to the publisher, and handles start, stop, failures and health.

    node = IngestNode(load_rig("configs/demo.yaml"))
    signal.signal(signal.SIGTERM, lambda *_: node.stop())
    summary = node.run()

Its loop (`loop`) is thin: captures prepare and queue frames, `IngestCore` decides and encodes, `Publisher` sends.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.process import BaseProcess
from typing import Any

from streamtok.ingest.core import IngestCore
from streamtok.io.capture import Capture
from streamtok.model import Tokenizer
from streamtok.node.loop import IngestLoop
from streamtok.node.metrics import Metrics, PrometheusServer
from streamtok.node.process import notify_systemd
from streamtok.node.rig import check_outputs, make_sources, make_warm_core, open_parts
from streamtok.node.stream_metrics import copy_recording, export_zeros
from streamtok.node.summary import summarize
from streamtok.recording.recorder import Recorder
from streamtok.settings.errors import blame_settings
from streamtok.settings.rig import RigSettings
from streamtok.wire import compression
from streamtok.wire.publisher import Publisher

log = logging.getLogger("streamtok.ingest")

RECORDER_S = 0.5  # of the 2 s that a node has to stop, for the recorder's backlog
HUNG_S = 30.0  # longer than any step takes; WatchdogSec in the unit of docs/operations.md is the same


class IngestNode:
    """One process for the cameras of a rig; `run` returns the summary that `--json` prints.

    The tokenizer is loaded at the start unless it is given. `stop` may be called from a signal handler or another
    thread. `on_update` is called with the node some ten times a second (for a live display). `start_reader` starts a
    process that reads the given endpoint; it is killed when the node ends. `failures` describes sources that failed
    while the others went on.

    Raises SettingsError for settings that cannot work on this machine, OSError for an endpoint that is in use or a
    recording that cannot begin.
    """

    def __init__(
        self,
        settings: RigSettings,
        tokenizer: Tokenizer | None = None,
        on_update: "Callable[[IngestNode], None]" = lambda node: None,
        start_reader: Callable[[str], BaseProcess] | None = None,
    ) -> None:
        with blame_settings():
            check_outputs(settings)
            compression.check(settings.compression)
            self.sources = make_sources(settings)
        self.settings, self.on_update = settings, on_update
        self.metrics = Metrics({"node": settings.node, "model": settings.model})
        self.metrics_port: int | None = None
        self.failures: list[str] = []
        export_zeros(self.metrics, self.sources)
        self._tokenizer, self._start_reader = tokenizer, start_reader
        self._binds = False  # from then on there are sockets and files to close
        self._loop: IngestLoop | None = None  # once the node is bound
        self._stopping = threading.Event()

    @property
    def core(self) -> IngestCore:
        """The ingest core; RuntimeError before the node has started."""
        return self._started().core

    @property
    def publisher(self) -> Publisher:
        """The publisher; RuntimeError before the node has started."""
        return self._started().publisher

    @property
    def captures(self) -> dict[str, Capture]:
        """The captures of the sources by stream; empty before they are read."""
        return {} if self._loop is None else self._loop.captures

    def stop(self) -> None:
        """Ask the node to end, which takes up to 2 seconds once it is warm."""
        self._stopping.set()

    def at_stake(self) -> bool:
        """Whether there is something to finish, which is so once the model is warm and the node binds."""
        return self._binds

    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    def hung(self) -> list[str]:
        """The liveness probe: why a supervisor should restart this process (no loop turn for HUNG_S), or nothing."""
        still = 0.0 if self._loop is None else time.monotonic() - self._loop.turned
        return [f"hung: the loop has not turned for {still:.0f} s"] if still > HUNG_S else []

    def unready(self) -> list[str]:
        """The readiness probe: what tokens wait for, nothing while the node is ready.

        It is ready once it is bound, its model warm, and every `required` camera has delivered, until it is told to
        stop. While frames wait for readers (`wait_subscribers`), it is ready without cameras.
        """
        if self._loop is None:
            return ["starting: not bound yet"]
        if self.stopping():
            return ["stopping"]
        if self.settings.wait_subscribers and not self.captures:
            return []
        without = [name for name, source in self.sources.items() if source.required and not source.counts["frames"]]
        return [f"{name}: no frame yet" for name in without]

    def run(self) -> dict[str, Any]:
        """Run until every source has ended or `stop` is called; returns the summary.

        Raises SettingsError, OSError or RuntimeError if the node cannot start, and OSError from publishing. Raises
        ValueError for a missing device, or a source that cannot be read.
        """
        with ExitStack() as stack:
            loop = self._loop = self._start(stack)
            notify_systemd("READY=1")
            try:
                loop.wait_for_subscribers(self.settings.wait_subscribers)
                loop.run()
            finally:
                self.failures += loop.failures
        return self.summary()

    def summary(self) -> dict[str, Any]:
        """The summary for `--json`: counts per stream, latency in ms by stage, frames per second of the whole node."""
        return summarize(self.metrics, self.sources, None, 0.0) if self._loop is None else self._loop.summary()

    def _started(self) -> IngestLoop:
        if self._loop is None:
            raise RuntimeError("the node has not started")
        return self._loop

    def _start(self, stack: ExitStack) -> IngestLoop:
        settings = self.settings
        if settings.metrics is not None:
            self._serve_metrics(stack, settings.metrics, settings.metrics_address)
        for source in self.sources.values():
            stack.enter_context(source)
        core = make_warm_core(settings, self._tokenizer, self.sources)
        self._binds = True
        parts = open_parts(settings, core, self.sources, stack, stats=self.summary, stop=self.stopping)
        if self._start_reader is not None:
            stack.callback(self._start_reader(parts.publisher.endpoint).kill)
        if parts.recorder is not None:
            stack.callback(self._close_recorder, parts.recorder)
        with blame_settings():
            for name in (name for name, source in self.sources.items() if source.size is not None):
                parts.publisher.add_stream(parts.core.stream_info(name))  # the others come with their first frame
        log.info("event=bound endpoint=%s control=%s", parts.publisher.endpoint, parts.publisher.control_endpoint)
        return IngestLoop(
            parts,
            self.sources,
            self.metrics,
            self._stopping,
            publish_frames=settings.publish_frames,
            on_update=lambda: self.on_update(self),
        )

    def _serve_metrics(self, stack: ExitStack, port: int, address: str) -> None:
        server = PrometheusServer(self.metrics, port, address, {"/healthz": self.hung, "/readyz": self.unready})
        stack.callback(server.close)
        self.metrics_port = server.port
        log.info("event=metrics url=http://%s:%d/metrics", address, server.port)

    def _close_recorder(self, recorder: Recorder) -> None:
        """Let the recorder write its backlog; after `stop`, for RECORDER_S at most."""
        recorder.close(RECORDER_S if self.stopping() else None)
        copy_recording(self.metrics, recorder, self.sources)
        if recorder.error:
            self.failures.append(f"recording stopped: {recorder.error}")
