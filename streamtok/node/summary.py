"""The summary of an ingest node. It imports no PyTorch, since a node may be stopped before that is loaded."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from streamtok.node.metrics import Metrics

if TYPE_CHECKING:
    from streamtok.ingest.budget import ByteBudget, Meter
    from streamtok.ingest.core import IngestCore
    from streamtok.ingest.lane import Lane

IN_SUMMARY = ("frames", "groups", "keyframes", "dropped", "gaps", "damaged", "published")


def summarize(metrics: Metrics, streams: Iterable[str], core: "IngestCore | None", seconds: float) -> dict[str, Any]:
    """The summary for `--json`: counts per stream, latency in ms by stage, frames per second of the whole node."""
    if core is not None:
        from streamtok.ingest.token_grid import grid_shape  # needs PyTorch, which the core has loaded
    counts: dict[str, dict[str, Any]] = {}
    for name in streams:
        size = core.lane(name).image_size if core is not None else None
        height, width = grid_shape(core.config, *size)[-2:] if core is not None and size is not None else (0, 0)
        counts[name] = {counter: metrics.counter(counter, name) for counter in IN_SUMMARY}
        counts[name]["tokens_per_group"] = height * width
        counts[name] |= {} if core is None else summarize_budget(core.lane(name))
    frames = sum(stream["frames"] for stream in counts.values())
    fps = round(frames / seconds, 2) if seconds else 0.0
    return {"streams": counts, "latency_ms": metrics.latency_ms(), "fps": fps} | summarize_rig(core)


def summarize_rig(core: "IngestCore | None") -> dict[str, Any]:
    """The rig's bitrate asked for and sent, if the streams share a budget."""
    for lane in [] if core is None else core.lanes.values():
        if lane.budget.rig is not None:
            shared = lane.budget.rig.budget
            return {f"rig_{key}": value for key, value in summarize_rate(shared, shared.sent).items()}
    return {}


def summarize_budget(lane: "Lane") -> dict[str, Any]:
    """A stream's bitrate asked for and sent, hold margin and left-out frames, if it has them."""
    budget = lane.budget
    summary: dict[str, Any] = {}
    if budget.most_hold:
        summary |= {"hold_margin": round(budget.mean_hold, 4), "hold_noise_db": round(budget.mean_noise_db, 2)}
    if budget.budgets:
        summary |= {**summarize_rate(budget.own, budget.spent), "left_out": lane.reasons["budget"]}
    return summary


def summarize_rate(asked: "ByteBudget | None", sent: "Meter") -> dict[str, Any]:
    """The rates asked for and sent, in bits per second of capture time."""
    return {"bitrate_asked": None if asked is None else asked.bitrate, "bitrate_sent": round(sent.mean)}


def format_ingest(summary: Mapping[str, Any]) -> str:
    """The summary as lines of text."""
    line = (
        "{}: {frames} frames in {groups} groups of {tokens_per_group} tokens ({keyframes} keyframes), {published} "
        "published, {dropped} frames dropped, {gaps} gaps, {damaged} damaged"
    )
    lines = []
    for name, counts in summary["streams"].items():
        lines += [line.format(name, **counts), *format_budget(counts)]
    lines += [f"all streams: {format_rate(summary, 'rig_')}"] if "rig_bitrate_sent" in summary else []
    for stage, values in summary["latency_ms"].items():
        lines.append(f"{stage:>8} ms: " + ", ".join(f"{name} {value:.1f}" for name, value in values.items()))
    return "\n".join([*lines, f"{summary['fps']:.1f} frames per second in all"])


def format_budget(counts: Mapping[str, Any]) -> list[str]:
    """A line on a stream's bitrate and hold margin, if it has them."""
    parts = []
    if "bitrate_sent" in counts:
        parts += [format_rate(counts), f"{counts['left_out']} frames left out"]
    if "hold_margin" in counts:
        parts.append(
            "levels held within {hold_margin:.2f} in the mean, {hold_noise_db:.1f} dB of noise".format(**counts)
        )
    return ["  " + ", ".join(parts)] if parts else []


def format_rate(counts: Mapping[str, Any], prefix: str = "") -> str:
    """The rate that was sent, and the one asked for, if any."""
    sent, asked = counts[prefix + "bitrate_sent"], counts[prefix + "bitrate_asked"]
    return f"{sent / 1e3:.1f} kbit/s sent" + (f", {asked / 1e3:.1f} asked" if asked else "")
