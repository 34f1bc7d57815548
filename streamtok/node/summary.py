"""What an ingest node says at its end. Imports no PyTorch: a node may be told to stop before it has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from streamtok.node.metrics import Metrics

if TYPE_CHECKING:
    from streamtok.ingest.core import IngestCore

IN_SUMMARY = ("frames", "groups", "keyframes", "dropped", "gaps", "damaged", "published")


def summarize(metrics: Metrics, streams: Iterable[str], core: IngestCore | None, seconds: float) -> dict[str, Any]:
    """What `--json` prints: per stream counts, latency in ms by stage, frames per second of the whole node."""
    if core is not None:
        from streamtok.ingest.token_grid import grid_shape  # PyTorch, which there is now
    counts: dict[str, dict[str, int]] = {}
    for name in streams:
        size = core.lane(name).image_size if core is not None else None
        height, width = grid_shape(core.config, *size)[-2:] if core is not None and size is not None else (0, 0)
        counts[name] = {counter: metrics.counter(counter, name) for counter in IN_SUMMARY}
        counts[name]["tokens_per_group"] = height * width
    frames = sum(stream["frames"] for stream in counts.values())
    fps = round(frames / seconds, 2) if seconds else 0.0
    return {"streams": counts, "latency_ms": metrics.latency_ms(), "fps": fps}


def format_summary(summary: Mapping[str, Any]) -> str:
    """The summary for people."""
    line = (
        "{}: {frames} frames in {groups} groups of {tokens_per_group} tokens ({keyframes} keyframes), {published} "
        "published, {dropped} frames dropped, {gaps} gaps, {damaged} damaged"
    )
    lines = [line.format(name, **counts) for name, counts in summary["streams"].items()]
    for stage, values in summary["latency_ms"].items():
        lines.append(f"{stage:>8} ms: " + ", ".join(f"{name} {value:.1f}" for name, value in values.items()))
    return "\n".join([*lines, f"{summary['fps']:.1f} frames per second in all"])
