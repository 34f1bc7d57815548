"""What `streamtok bench` prints and draws from the values of `bench.run`."""

from pathlib import Path
from typing import Any


def describe(report: dict[str, Any]) -> str:
    """The report as a table for people."""
    options, engine, latency = report["options"], report["engine"], report["latency"]
    height, width = options["size"]
    lines = [
        f"{report['model']} at {height}x{width}, {options['cameras']} camera(s), {report['machine']['name']}, "
        f"{engine['precision']}, {engine['kernels']} kernels{', captured' if engine['graph'] else ''}",
        _row(
            "group, p50 / p99",
            f"{latency['p50_ms']:.2f} / {latency['p99_ms']:.2f} ms",
            f"{100 * latency['share_of_group_time']:.0f} % of a group's time at {options['fps']:g} frames per second",
        ),
        _row(
            "throughput",
            f"{latency['frames_per_s']:.0f} frames/s",
            f"{latency['cpu_ms']:.1f} ms of processor time per step",
        ),
    ]
    if "shared_step" in report:
        lines.append(_shared(report["shared_step"], latency))
    decode = report["decode"]
    both = f"with encoding {100 * decode['share_with_encoding']:.0f} % of a group's time"
    lines.append(_row("decode, p50 / p99", f"{decode['p50_ms']:.2f} / {decode['p99_ms']:.2f} ms", both))
    for name, found in report["precisions"].items():
        remark = f"equal to float32's; {found['ms']:.1f} ms per group, pictures {found['psnr']:.2f} dB"
        lines.append(_row(f"tokens, {name}", f"{100 * found['agreement']:.2f} %", remark))
    lines += _stateless(report["stateless"]) + _roofline(report["roofline"])
    lines += [_row(f"stage: {name.replace('_', ' ')}", f"{ms:.2f} ms") for name, ms in report["stages"].items()]
    if "steady" in report:
        steady = report["steady"]
        grown = (steady["memory_after"] - steady["memory_before"]) / 2**20
        change = f"{steady['first_p50_ms']:.2f} to {steady['last_p50_ms']:.2f} ms"
        lines.append(_row(f"{steady['groups']} groups", change, f"first and last tenth; memory +{grown:.1f} MiB"))
    if "end_to_end" in report:
        whole, wire = report["end_to_end"]["capture_to_reader"], report["end_to_end"]["publish_to_reader"]
        lines.append(_row("capture to reader", f"{whole['p50_ms']:.1f} / {whole['p99_ms']:.1f} ms", "p50 / p99"))
        lines.append(_row("publish to reader", f"{wire['p50_ms']:.2f} / {wire['p99_ms']:.2f} ms", "p50 / p99"))
    if "start" in report:
        lines += _start(report["start"])
    memory = engine["memory"]
    lines.append(
        _row(
            "memory", f"{memory['weights'] / 2**20:.0f} MiB", f"weights, and {memory['state'] / 2**20:.0f} MiB of state"
        )
    )
    return "\n".join(lines)


def _row(name: str, value: str, remark: str = "") -> str:
    return f"  {name:<34} {value:>22}   {remark}".rstrip()


def _shared(part: dict[str, Any], each: dict[str, Any]) -> str:
    if "error" in part:
        return _row("all cameras in one step", "-", part["error"])
    ratio = f"{part['p50_ms'] / each['p50_ms']:.2f} of a step for each, {part['kernels']} kernels"
    return _row("all cameras in one step", f"{part['p50_ms']:.2f} / {part['p99_ms']:.2f} ms", ratio)


def _start(part: dict[str, Any]) -> list[str]:
    what = "of an ingest node to its first token at a reader"
    if part["measured"] == "load":
        what = f"of a process that loads and takes a step; no node, for it lacks {', '.join(part['missing'])}"
    found = part["engine"]
    remark = f"engine auto as stored by the first: {found['precision']}, {found['kernels']} kernels"
    return [
        _row("start, the first on this machine", f"{part['first_ms']:.0f} ms", what),
        _row("start, the second", f"{part['second_ms']:.0f} ms", remark),
    ]


def _stateless(part: dict[str, Any]) -> list[str]:
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


def _roofline(part: dict[str, Any]) -> list[str]:
    return [
        _row(
            "work per group", f"{part['flops'] / 1e9:.1f} GFLOP", f"and at least {part['bytes'] / 2**20:.0f} MiB moved"
        ),
        _row("measured peak", f"{part['tflops']:.3g} TFLOP/s", f"{part['terabytes_per_s']:.3g} TB/s"),
        _row(
            "share of the roofline",
            f"{100 * part['share_of_roofline']:.0f} %",
            f"{part['achieved_tflops']:.3g} TFLOP/s reached, {100 * part['share_of_peak']:.0f} % of the peak",
        ),
    ]


def plot(report: dict[str, Any], path: Path) -> Path:
    """Bars of a step against the stateless windows; written to `path` (.png or .svg)."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("drawing needs matplotlib: pip install 'streamtok[plot]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    part = report["stateless"]
    bars = {"step": part["step_ms"], "step, eager": part["eager_step_ms"]}
    bars |= {f"window of {n}": found["ms"] for n, found in part["windows"].items() if "ms" in found}
    figure, axes = pyplot.subplots(figsize=(7, 0.6 * len(bars) + 1.4))
    drawn = axes.barh(list(bars), list(bars.values()), color=["#2a6f97", *["#a9bcd0"] * (len(bars) - 1)])
    axes.bar_label(drawn, fmt="%.1f ms", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.25)
    axes.set_xlabel("milliseconds per new group")
    height, width = report["options"]["size"]
    axes.set_title(f"{report['model']}, {height}x{width}, {report['engine']['precision']}, {report['machine']['name']}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
    return path
