"""Prints a benchmark report of `measure` as a table, and plots its ratios."""

from pathlib import Path
from typing import Any

from streamtok.bench.measure import count_cameras
from streamtok.extras import needs_extra


def format_benchmark(report: dict[str, Any]) -> str:
    """The report as a table of text lines."""
    lines = [_title(report), *_speed_rows(report)]
    for name, found in report["precisions"].items():
        remark = f"equal to float32's; {found['ms']:.1f} ms per group, pictures {found['psnr']:.2f} dB"
        lines.append(_row(f"tokens, {name}", f"{100 * found['agreement']:.2f} %", remark))
    lines += _stateless_rows(report["stateless"]) + _roofline_rows(report["roofline"])
    lines += [_row(f"stage: {name.replace('_', ' ')}", f"{ms:.2f} ms") for name, ms in report["stages"].items()]
    for section, make_rows in (("steady", _steady_rows), ("end_to_end", _end_to_end_rows), ("start", _start_rows)):
        lines += make_rows(report[section]) if section in report else []
    memory = report["engine"]["memory"]
    weights, state = f"{memory['weights'] / 2**20:.0f} MiB", f"{memory['state'] / 2**20:.0f} MiB"
    lines.append(_row("memory", weights, f"weights, and {state} of state"))
    return "\n".join(lines)


def _title(report: dict[str, Any]) -> str:
    options, engine = report["options"], report["engine"]
    size = "{}x{}".format(*options["size"])
    setup = f"{report['model']} at {size}, {options['cameras']} camera(s), {report['machine']['name']}"
    return f"{setup}, {_name_engine(engine)}"


def _name_engine(engine: dict[str, Any]) -> str:
    captured = ", captured" if engine["graph"] else ""
    return f"{engine['precision']}, {engine['kernels']} kernels, {engine['convolutions']} convolutions{captured}"


def _row(name: str, value: str, remark: str = "") -> str:
    return f"  {name:<34} {value:>22}   {remark}".rstrip()


def _range(part: dict[str, Any], digits: int = 2) -> str:
    """Format the median and the 99th percentile of a part."""
    return f"{part['p50_ms']:.{digits}f} / {part['p99_ms']:.{digits}f} ms"


def _speed_rows(report: dict[str, Any]) -> list[str]:
    latency, decode, fps = report["latency"], report["decode"], report["options"]["fps"]
    share = f"{100 * latency['share_of_group_time']:.0f} % of a group's time at {fps:g} frames per second"
    busy = f"{latency['cpu_ms']:.1f} ms of processor time per step"
    rows = [_row("group, p50 / p99", _range(latency), share)]
    rows.append(_row("throughput", f"{latency['frames_per_s']:.0f} frames/s", busy))
    shared = report.get("shared_step")
    if shared:
        ratio = shared.get("p50_ms", 0.0) / latency["p50_ms"]
        remark = shared.get("error") or f"{ratio:.2f} of a step for each, {shared['kernels']} kernels"
        rows.append(_row("all cameras in one step", "-" if "error" in shared else _range(shared), remark))
    share = f"with encoding {100 * decode['share_with_encoding']:.0f} % of a group's time"
    cameras = count_cameras(latency, decode)
    remark = f"{cameras.decoded:.1f} decoded, {cameras.both:.1f} both, in real time at {fps:g} frames per second"
    rows.append(_row("decode, p50 / p99", _range(decode), share))
    return [*rows, _row("cameras carried", f"{cameras.encoded:.1f} encoded", remark)]


def _steady_rows(part: dict[str, Any]) -> list[str]:
    grown = (part["memory_after"] - part["memory_before"]) / 2**20
    change = f"{part['first_p50_ms']:.2f} to {part['last_p50_ms']:.2f} ms"
    return [_row(f"{part['groups']} groups", change, f"first and last tenth; memory +{grown:.1f} MiB")]


def _end_to_end_rows(part: dict[str, Any]) -> list[str]:
    return [
        _row("capture to reader", _range(part["capture_to_reader"], 1), "p50 / p99"),
        _row("publish to reader", _range(part["publish_to_reader"]), "p50 / p99"),
        _row("frames lost", f"{part['dropped_frames']}", f"of all cameras, in {part['seconds']:.0f} s"),
    ]


def _start_rows(part: dict[str, Any]) -> list[str]:
    remark = f"engine auto as stored by the first: {_name_engine(part['engine'])}"
    return [
        _row("start, the first on this machine", f"{part['first_ms']:.0f} ms", "of a node to a reader's first token"),
        _row("start, the second", f"{part['second_ms']:.0f} ms", remark),
    ]


def _stateless_rows(part: dict[str, Any]) -> list[str]:
    lines = [_row("step, eager", f"{part['eager_step_ms']:.2f} ms", "plain PyTorch, same precision")]
    for window, found in part["windows"].items():
        if "error" in found:
            lines.append(_row(f"stateless, {window} frames", "-", found["error"]))
        else:
            remark = (
                f"{found['ratio']:.1f} times a step, {found['ratio_eager']:.1f} times the eager one "
                f"({found['ratio_cpu']:.1f} in processor time)"
            )
            lines.append(_row(f"stateless, {window} frames", f"{found['ms']:.1f} ms", remark))
    return lines


def _roofline_rows(part: dict[str, Any]) -> list[str]:
    moved = f"and at least {part['bytes'] / 2**20:.0f} MiB moved"
    reached = f"{part['achieved_tflops']:.3g} TFLOP/s reached, {100 * part['share_of_peak']:.0f} % of the peak"
    return [
        _row("work per group", f"{part['flops'] / 1e9:.1f} GFLOP", moved),
        _row("measured peak", f"{part['tflops']:.3g} TFLOP/s", f"{part['terabytes_per_s']:.3g} TB/s"),
        _row("share of the roofline", f"{100 * part['share_of_roofline']:.0f} %", reached),
    ]


def plot_ratios(report: dict[str, Any], path: Path) -> Path:
    """Plot a step against the stateless windows as bars, and write it to `path` (.png or .svg); returns `path`."""
    with needs_extra("drawing", "plot"):
        from matplotlib.figure import Figure
    part = report["stateless"]
    bars = {"step": part["step_ms"], "step, eager": part["eager_step_ms"]}
    bars |= {f"window of {n}": found["ms"] for n, found in part["windows"].items() if "ms" in found}
    figure = Figure(figsize=(7, 0.6 * len(bars) + 1.4))
    axes = figure.subplots()
    drawn = axes.barh(list(bars), list(bars.values()), color=["#2a6f97", *["#a9bcd0"] * (len(bars) - 1)])
    axes.bar_label(drawn, fmt="%.1f ms", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.25)
    axes.set_xlabel("milliseconds per new group")
    height, width = report["options"]["size"]
    axes.set_title(f"{report['model']}, {height}x{width}, {report['engine']['precision']}, {report['machine']['name']}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    return path
