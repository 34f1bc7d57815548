"""Measure streamtok on this machine: start to first token, latency, throughput, roofline, end to end.

    streamtok bench
    streamtok bench --model cosmos-dv4x8x8 --size 720x1280 --precision bfloat16 --cameras 8
    streamtok bench --precision int8 --clip drive.mp4 --windows ''
    streamtok bench --steady 10000 --end-to-end --out benchmarks/ --plot bench.png

A step is compared with a stateless encoder. Every comparison is made in one run, with the same input and precision.
`--json` prints the whole report as one line.
"""

import json
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

import streamtok
from streamtok.bench.options import BenchOptions
from streamtok.commands.command import make_main
from streamtok.settings.fields import Count, Device, File, Flag, Model, Positive, Size, Switch, Whole, option
from streamtok.settings.shared import CommandSettings


class BenchSettings(CommandSettings):
    """Flags of `streamtok bench`."""

    model: Model = option("nano", "preset or checkpoint folder")
    size: Size = option((256, 448), "frame size, height first")
    cameras: Count = option(1, "cameras at a time")
    fps: Annotated[Positive, Flag("FPS")] = option(30.0, "frames per second of each camera")
    precision: Literal["auto", "float32", "bfloat16", "float16", "int8", "float64"] = option(
        "auto", "auto measures all"
    )
    clip: Annotated[str, Flag("SOURCE")] | None = option(
        None, "compare precisions on the start of this video or other source"
    )
    device: Device = option("auto", "auto, cpu, cuda or cuda:N")
    threads: Whole = option(0, "threads on the CPU, 0 for PyTorch's choice")
    groups: Count = option(50, "groups to time")
    windows: Annotated[str, Field(pattern=r"^(\d+(,\d+)*)?$"), Flag("WINDOWS")] = option(
        "17,33,49", "frames of the stateless windows; '' for none"
    )
    steady: Whole = option(0, "also N groups in one epoch: drift, memory")
    start: Switch = option(True, "start a node twice, the first time on an empty cache")
    end_to_end: Switch = option(False, "also from capture to reader, with a real node")
    out: Annotated[Path, Flag("PATH", short="-o")] | None = option(None, "write the report to a file, or into a folder")
    plot: File | None = option(None, "draw the ratios")


def run(settings: BenchSettings) -> int:
    """Measure, print and write the report; returns 0."""
    import torch

    from streamtok.bench.measure import measure_model
    from streamtok.bench.tables import format_benchmark, plot_ratios
    from streamtok.engine.loading import pick_device

    if settings.threads:
        torch.set_num_threads(settings.threads)
    given = settings.model_dump(include={field.name for field in fields(BenchOptions)})
    given["device"] = pick_device(settings.device).type
    given["windows"] = tuple(int(frames) for frames in settings.windows.split(",") if frames)
    options = BenchOptions(**given)
    report = measure_model(streamtok.load(settings.model), options, lambda line: print(line, file=sys.stderr))
    written = write_benchmark(report, settings.out) if settings.out else None
    if settings.plot:
        plot_ratios(report, settings.plot)
    print(settings.format_result(report, format_benchmark(report)))
    if written:
        print(f"written to {written}", file=sys.stderr)
    return 0


def write_benchmark(report: dict[str, Any], out: Path) -> Path:
    """Write the report as JSON to `out`; in a folder, under a name made of device, model, size and precision."""
    if out.suffix != ".json":
        device = re.sub(r"[^A-Za-z0-9]+", "-", report["machine"]["name"]).strip("-").lower()
        height, width = report["options"]["size"]
        out = out / f"{device}-{report['model']}-{height}x{width}-{report['engine']['precision']}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")
    return out


main = make_main("bench", BenchSettings, run, __doc__)
