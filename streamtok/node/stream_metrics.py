"""Copies the counters and latencies of an ingest node's streams into its metrics."""

from collections.abc import Iterable

from streamtok.ingest.budget import StreamBudget
from streamtok.ingest.lane import Lane
from streamtok.io.base import RecordedSource, Source
from streamtok.io.capture import Captured
from streamtok.node.metrics import Metrics
from streamtok.recording.recorder import Recorder
from streamtok.types import TokenGroup

OF_LANE = ("groups", "keyframes", "dropped", "gaps", "nonfinite", "repeated", "resizes")
OF_SOURCE = ("frames", "reconnects", "frozen", "damaged", "missed")
OF_NODE = ("published", "published_bytes", "publish_errors", "deadline_misses")


def export_zeros(metrics: Metrics, streams: Iterable[str]) -> None:
    """Export the node's own counters as 0 from the start."""
    for name in streams:
        for counter in OF_NODE:
            metrics.set_total(counter, name, 0)


def copy_totals(metrics: Metrics, source: Source, lane: Lane) -> None:
    """Copy the counters and state of a source and its lane."""
    name = lane.name
    for counts, counters in ((lane.counts, OF_LANE), (source.counts, OF_SOURCE)):
        for counter in counters:
            metrics.set_total(counter, name, counts[counter])
    metrics.gauge("up", name, source.state == "up")
    metrics.gauge("is_frozen", name, source.frozen)
    metrics.gauge("epoch", name, lane.epoch)
    copy_budget(metrics, name, lane.budget)


def copy_budget(metrics: Metrics, name: str, budget: StreamBudget) -> None:
    """Copy a stream's hold margin and bitrate, if it has them."""
    if budget.most_hold:
        metrics.gauge("hold_margin", name, budget.hold)
        metrics.gauge("hold_noise_db", name, budget.noise_db)
    if budget.budgets:
        metrics.gauge("bitrate_sent", name, budget.spent.recent)
        metrics.gauge("encoded_share", name, budget.kept)
    if budget.own is not None:
        metrics.gauge("bitrate_asked", name, budget.own.bitrate)
        metrics.gauge("bitrate_debt_seconds", name, budget.own.debt)
    if budget.rig is not None:
        metrics.gauge("rig_bitrate_asked", "", budget.rig.budget.bitrate)
        metrics.gauge("rig_bitrate_sent", "", budget.rig.budget.sent.recent)
        metrics.gauge("rig_bitrate_debt_seconds", "", budget.rig.budget.debt)


def copy_recording(metrics: Metrics, recorder: Recorder, streams: Iterable[str]) -> None:
    """Copy the recorder's state of each stream."""
    for name in streams:
        metrics.gauge("recording", name, not recorder.error)
        metrics.set_total("unrecorded", name, recorder.unrecorded[name])


def count_published(metrics: Metrics, group: TokenGroup, publish_ns: int) -> None:
    """Count a group that was sent, and the durations of encoding and publishing it."""
    metrics.observe("encode", group.stream, group.encode_ns / 1e9)
    metrics.observe("publish", group.stream, publish_ns / 1e9)
    metrics.count("published", group.stream)
    metrics.count("published_bytes", group.stream, group.tokens.nbytes)


def observe_latency(
    metrics: Metrics, source: Source, item: Captured, group: TokenGroup, encoded_ns: int, published_ns: int
) -> None:
    """Observe how long the group's last frame, `item`, was queued, and the `total` from its capture to its message.

    A recording that is read as fast as possible has no `total`, since its capture times are not those of now.
    """
    metrics.observe("queue", group.stream, max(0, encoded_ns - group.encode_ns - item.ready_ns) / 1e9)
    if not (source.live or (isinstance(source, RecordedSource) and source.realtime)):
        return
    total = (published_ns - item.frame.capture_ns) / 1e9
    metrics.observe("total", group.stream, total)
    frames = group.info.temporal_compression if group.info is not None else 1
    if source.fps and total > frames / source.fps:
        metrics.count("deadline_misses", group.stream)
