"""The live table of a running node on standard error, if that is a terminal."""

import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table

from streamtok.node.metrics import Metrics

REFRESH_S = 0.25


class LiveDisplay:
    """A table of streams with a line of latencies, redrawn every REFRESH_S; a context manager.

    Call `update()` often; the first one hides the terminal's cursor, the end of the context shows it. `streams` are the
    rows, `title` is the line above.
    """

    def __init__(self, metrics: Metrics, streams: Sequence[str], title: str) -> None:
        self.metrics, self.streams, self.title = metrics, list(streams), title
        self._live: Live | None = None
        self._next = 0.0
        self._last: dict[str, tuple[float, int]] = {}
        self._rates: dict[str, float] = {}

    def __enter__(self) -> "LiveDisplay":
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(self) -> None:
        """Redraw if REFRESH_S have passed."""
        now = time.monotonic()
        if now < self._next or not sys.stderr.isatty():
            return
        self._next = now + REFRESH_S
        if self._live is None:
            self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(self.render(now), refresh=True)

    def rate(self, stream: str, now: float) -> float:
        """Frames per second of a stream over about the last second."""
        frames = self.metrics.counter("frames", stream)
        then, before = self._last.setdefault(stream, (now, frames))
        if now - then >= 1.0:
            self._rates[stream] = (frames - before) / (now - then)
            self._last[stream] = now, frames
        return self._rates.get(stream, 0.0)

    def render(self, now: float) -> Table:
        """The table for rich to draw."""
        table = Table(title=self.title, caption=format_latencies(self.metrics), title_justify="left")
        table.caption_justify = "left"
        for column in ("stream", "state", "fps", "groups", "epoch", "dropped", "gaps", "queue", "behind", "readers"):
            table.add_column(column, justify="left" if column in ("stream", "state") else "right")
        for stream in self.streams:
            counter, gauge = self.metrics.counter, self.metrics.gauge_value
            table.add_row(
                stream,
                "[green]up[/]" if gauge("up", stream) else "[red]lost[/]",
                f"{self.rate(stream, now):.1f}",
                str(counter("groups", stream)),
                f"{gauge('epoch', stream):.0f}",
                str(counter("dropped", stream)),
                str(counter("gaps", stream)),
                f"{gauge('queue_depth', stream):.0f}",
                f"{gauge('behind_seconds', stream):.2f} s",
                f"{gauge('subscribers', stream):.0f}",
            )
        return table


def format_latencies(metrics: Metrics) -> str:
    """Format p50/p95/p99 milliseconds of every stage, as `encode 11.2/14.0/19.5`."""
    stages = [
        f"{stage} {'/'.join(f'{v:.1f}' for v in values.values())}" for stage, values in metrics.latency_ms().items()
    ]
    return "ms p50/p95/p99: " + ", ".join(stages) if stages else "waiting for frames"
