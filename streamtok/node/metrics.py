"""Counters, gauges and latencies of a node, for its summary, its live display and Prometheus.

metrics = Metrics()
metrics.count("frames", "front")
metrics.observe("encode", "front", 0.012)
server = PrometheusServer(metrics, port=9464)      # http://127.0.0.1:9464/metrics
...
server.close()
"""

import contextlib
import logging
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import numpy as np
from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from streamtok.measures import KEPT, QUANTILES, LatestSamples, quantiles

log = logging.getLogger("streamtok.ingest")

OPEN_REQUESTS = 32
IDLE_S = 5.0  # after which a connection without a request is closed

Probe = Callable[[], Sequence[str]]
HELP = {
    "frames": "frames delivered by the source",
    "groups": "groups encoded",
    "keyframes": "groups that started an epoch",
    "published": "token messages published",
    "published_bytes": "bytes of token grids published, before compression",
    "dropped": "frames that are in no group",
    "gaps": "times that frames were missing",
    "nonfinite": "groups whose latent was not finite",
    "repeated": "frames added to fill groups",
    "resizes": "times that the picture's size changed",
    "reconnects": "times that a lost source came back",
    "frozen": "times that an image stood still for too long",
    "missed": "frames of the camera that never came",
    "damaged": "frames that could not be decoded",
    "deadline_misses": "groups published later than one group duration after their last frame",
    "publish_errors": "groups that the publisher refused or could not send",
    "recording": "1 while the stream is recorded, 0 once recording has stopped",
    "unrecorded": "frames and token messages that the recording lacks",
    "queue_depth": "frames waiting for the encoder",
    "behind_seconds": "age of the frame that was last taken for encoding, or left out for its age",
    "up": "1 while the source delivers",
    "is_frozen": "1 while the image stands still for too long",
    "subscribers": "readers of the stream",
    "epoch": "epoch of the stream",
    "hold_margin": "within how many levels the encoder keeps those of the group before",
    "hold_noise_db": "what that cost: rounding noise of the latent above that of plain rounding, in dB",
    "bitrate_asked": "bits per second that the stream's messages may take",
    "bitrate_sent": "bits per second of capture time that they took, averaged over 10 s",
    "bitrate_debt_seconds": "how long the asked bitrate takes for what was sent too much; negative: what was saved",
    "rig_bitrate_asked": "bits per second that the messages of all streams may take together",
    "rig_bitrate_sent": "bits per second of capture time that they took, averaged over 10 s",
    "rig_bitrate_debt_seconds": "how long the rig's bitrate takes for what was sent too much; negative: what was saved",
    "encoded_share": "of the frames that come, that are encoded to hold the bitrate",
}


class Metrics:
    """Counters and gauges by (name, stream), latencies by stage and stream; thread-safe.

    `facts` describe the node (node, model, ...); they are exported with the version of this package.
    """

    def __init__(self, facts: Mapping[str, str] | None = None) -> None:
        self.facts = {"version": version("streamtok"), **(facts or {})}
        self._lock = threading.RLock()  # re-entrant, for a signal handler that interrupts a count
        self._counters: Counter[tuple[str, str]] = Counter()
        self._gauges: dict[tuple[str, str], float] = {}
        self._stages: dict[tuple[str, str], LatestSamples] = {}

    def count(self, name: str, stream: str, by: int = 1) -> None:
        """Add to a counter."""
        with self._lock:
            self._counters[name, stream] += by

    def set_total(self, name: str, stream: str, total: int) -> None:
        """Set a counter that is kept elsewhere, such as a source's own."""
        with self._lock:
            self._counters[name, stream] = total

    def gauge(self, name: str, stream: str, value: float) -> None:
        """Set a value that goes up and down."""
        with self._lock:
            self._gauges[name, stream] = value

    def observe(self, stage: str, stream: str, seconds: float) -> None:
        """Add one duration of a stage."""
        with self._lock:
            self._stages.setdefault((stage, stream), LatestSamples()).add(seconds)

    def counter(self, name: str, stream: str) -> int:
        """A counter's value, 0 if it was never set."""
        with self._lock:
            return self._counters[name, stream]

    def gauge_value(self, name: str, stream: str, default: float = 0.0) -> float:
        """A gauge's value, `default` if it was never set."""
        with self._lock:
            return self._gauges.get((name, stream), default)

    def latency_ms(self) -> dict[str, dict[str, float]]:
        """Latency quantiles over all streams: {stage: {"p50": milliseconds, "p95": ..., "p99": ...}}."""
        with self._lock:
            stages: dict[str, list[np.ndarray]] = {}
            for (stage, _), reservoir in self._stages.items():
                stages.setdefault(stage, []).append(reservoir.samples)
            return {
                stage: {name: round(1e3 * value, 3) for name, value in quantiles(np.concatenate(samples)).items()}
                for stage, samples in stages.items()
            }

    def collect(self) -> Iterator[Metric]:
        """Yield the Prometheus families, which are built at each scrape, so that counting costs only a dictionary."""
        with self._lock:
            tables = (CounterMetricFamily, dict(self._counters)), (GaugeMetricFamily, dict(self._gauges))
            stages = {key: (kept.quantiles(), kept.count, kept.total) for key, kept in self._stages.items()}
        yield InfoMetricFamily("streamtok_build", "what runs here", self.facts)
        for family_class, table in tables:
            for name in sorted({name for name, _ in table}):
                family = family_class(f"streamtok_{name}", HELP.get(name, name), labels=["stream"])
                for stream in sorted(stream for known, stream in table if known == name):
                    family.add_metric([stream], table[name, stream])
                yield family
        summary = Metric("streamtok_latency_seconds", f"by stage, over the last {KEPT} groups or frames", "summary")
        for (stage, stream), (values, count, total) in stages.items():
            labels = {"stage": stage, "stream": stream}
            for name, value in values.items():
                summary.add_sample(summary.name, labels | {"quantile": str(QUANTILES[name])}, value)
            summary.add_sample(f"{summary.name}_count", labels, count)
            summary.add_sample(f"{summary.name}_sum", labels, total)
        yield summary


class PrometheusServer:
    """Serves one `Metrics` over HTTP on its own thread, on loopback unless `address` says otherwise.

    `probes` are further paths for supervisors. A probe returns lines on what is wrong; its path answers 200 if there
    are none, else 503. `port` is the one it listens on; port 0 is a free one. Raises OSError if the port is not free.
    """

    def __init__(
        self, metrics: Metrics, port: int, address: str = "127.0.0.1", probes: Mapping[str, Probe] | None = None
    ) -> None:
        registry = CollectorRegistry()  # a private one: the global registry refuses a second node in one process
        registry.register(metrics)
        ProcessCollector(registry=registry)
        app = _add_probes(make_wsgi_app(registry), probes or {})
        try:
            family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
            self._server = _Server((address, port), family)
        except OSError as error:
            raise OSError(
                f"cannot serve metrics on {address}:{port}: {error.strerror or error}; choose another port"
            ) from error
        self._server.set_app(app)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and end the thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=1)


def _add_probes(metrics_app: WSGIApplication, probes: Mapping[str, Probe]) -> WSGIApplication:
    """A WSGI application that answers the probes' paths, and passes every other path to `metrics_app`."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        probe = probes.get(environ["PATH_INFO"])
        if probe is None:
            return metrics_app(environ, start_response)
        wrong = probe()
        status = "503 Service Unavailable" if wrong else "200 OK"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        lines = wrong or ["ok"]
        return [] if environ["REQUEST_METHOD"] == "HEAD" else ["".join(f"{line}\n" for line in lines).encode()]

    return answer


class _Server(ThreadingMixIn, WSGIServer):
    """Serves each request in a thread, so that a scraper that hangs does not block probes."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], family: socket.AddressFamily) -> None:
        self.address_family = family
        self._open: list[socket.socket] = []
        super().__init__(address, _Handler)

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Serve at most OPEN_REQUESTS at a time: a new one ends the oldest, so that idle strangers block no probe."""
        if isinstance(request, socket.socket):  # always: pairs are for datagrams
            self._open = [*(known for known in self._open if known.fileno() >= 0), request]
        if len(self._open) > OPEN_REQUESTS:
            with contextlib.suppress(OSError):
                self._open.pop(0).shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def handle_error(self, request: object, client_address: object) -> None:
        """Log at debug level instead of a traceback, since a scraper may disconnect at any moment."""
        log.debug("event=scrape_failed client=%s", client_address, exc_info=True)


class _Handler(WSGIRequestHandler):
    timeout = IDLE_S

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing, as there is a request every few seconds."""
