"""Show the whole pipeline on this machine in one command: a drive becomes tokens, and tokens become pictures again.

    streamtok demo
    streamtok demo --source drive.mp4 --model nano --out out/demo
    streamtok demo --source /dev/video0 --max-frames 150

An ingest node publishes tokens over ZeroMQ from a process of its own; this process subscribes and decodes them.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from streamtok.commands.command import make_main
from streamtok.redaction import without_password
from streamtok.settings.fields import Count, Device, Flag, Folder, Model, Seconds, Size, SourceSpec, option
from streamtok.settings.shared import CommandSettings

if TYPE_CHECKING:
    from streamtok.node.demo import DemoResult
    from streamtok.wire.header import Info

PLAIN_EVERY_S = 2.0


class DemoSettings(CommandSettings):
    """What to show: `source` and `model` are those of `streamtok ingest`; `size` (H, W) None chooses one.

    The demo ends after `max_frames` or `max_seconds`, whichever comes first.
    """

    source: SourceSpec = option("synthetic:256x448@30?seed=7&frames=301", "what ingest takes")
    model: Model = option("nano", "preset name or checkpoint folder")
    out: Annotated[Folder, Flag(short="-o")] = option(Path("out/demo"), "where the pictures go")
    size: Size | None = option(None, "resize to this (default: large sources to about 256x448)")
    max_frames: Count = option(301, "end after N frames")
    max_seconds: Seconds = option(100.0, "end after this time")
    device: Device = option("auto", "auto, cpu, cuda or cuda:N")


def run(settings: DemoSettings) -> int:
    """Run the demo; returns 1 if a part of it failed."""
    from streamtok.node.demo import run_demo

    with show_progress(settings.max_frames) as on_progress:
        result = run_demo(**settings.model_dump(exclude={"as_json"}), on_progress=on_progress)
    print(settings.format_result(to_dict(settings, result), format_demo(settings, result)))
    return 0 if result.video else 1


@contextmanager
def show_progress(frames: int) -> Iterator[Callable[["DemoResult"], None]]:
    """Yield what shows progress on stderr: a bar on a terminal, else a line every two seconds."""
    if not sys.stderr.isatty():
        due = time.monotonic()

        def print_status(result: "DemoResult") -> None:
            nonlocal due
            if time.monotonic() >= due:
                due = time.monotonic() + PLAIN_EVERY_S
                print(format_status(result), file=sys.stderr, flush=True)

        yield print_status
        return
    columns = TextColumn("[bold]frames[/]"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("starting the ingest node", total=frames)
        yield lambda result: bar.update(task, completed=result.reached, description=format_status(result))


def format_status(result: "DemoResult") -> str:
    """One line on the demo's progress."""
    if not result.pictures:
        return "the ingest node is running, waiting for its first tokens"
    rate = result.pictures / max(result.seconds, 1e-3)
    return (
        f"{result.pictures} frames decoded, {rate:.1f} frames/s, "
        f"{result.token_bits_per_second / 1e6:.2f} of {result.raw_bits_per_second / 1e6:.1f} Mbit/s, "
        f"PSNR {result.psnr:.1f} dB"
    )


def to_dict(settings: DemoSettings, result: "DemoResult") -> dict[str, Any]:
    """The result as plain values, for --json."""
    return {
        "source": without_password(settings.source),
        "model": settings.model,
        "frames": result.pictures,
        "groups": result.groups,
        "lost": result.lost,
        "left_out": result.left_out,
        "passed_over": result.passed_over,
        "cameras": result.cameras,
        "seconds": round(result.seconds, 2),
        "psnr": round(result.psnr, 2),
        "token_bits_per_second": round(result.token_bits_per_second),
        "raw_bits_per_second": round(result.raw_bits_per_second),
        "node": result.node,
        "video": str(result.video) if result.video else None,
        "picture": str(result.picture) if result.picture else None,
    }


def format_demo(settings: DemoSettings, result: "DemoResult") -> str:
    """The summary for a newcomer."""
    if result.info is None:
        return "no tokens came; see ingest.log in the output folder"
    rows = [*speed_rows(settings, result, result.info), *token_rows(result, result.info)]
    lines = [f"{name:>13}  {text}" for name, text in rows]
    files = [f"{'side by side':>13}  {result.video}", f"{'picture':>13}  {result.picture}"]
    return "\n".join(["", f"streamtok demo with {settings.model}", "", *lines, "", *files])


def speed_rows(settings: DemoSettings, result: "DemoResult", info: "Info") -> Iterator[tuple[str, str]]:
    """Yield rows (name, text) on what was shown, and how fast."""
    latency = result.node.get("latency_ms", {})
    encode, total = latency.get("encode", {}).get("p50", 0.0), latency.get("total", {})
    height, width = info.image_size
    source = without_password(settings.source)
    yield "video", f"{result.pictures} frames of {height}x{width} at {result.fps:.0f} per second from {source}"
    yield (
        "speed",
        f"{result.pictures / max(result.seconds, 1e-9):.1f} frames per second shown; this machine encodes "
        "{encode:.1f} cameras of this size and rate, and decodes {decode:.1f} beside it".format(**result.cameras),
    )
    yield (
        "latency",
        f"{total.get('p50', 0):.0f} ms from a group's last frame to its tokens (99 of 100: "
        f"{total.get('p99', 0):.0f} ms), of which the network takes {encode:.0f} ms",
    )
    if result.left_out or result.passed_over:
        yield (
            "left out",
            f"{result.left_out} frames before the encoder and {result.passed_over} messages before the decoder, to "
            "stay in real time",
        )


def token_rows(result: "DemoResult", info: "Info") -> Iterator[tuple[str, str]]:
    """Yield rows (name, text) on the tokens: their grid, rate and quality, and losses."""
    grid = "x".join(map(str, info.grid))
    values = f" of {math.prod(info.levels):,} values" if info.levels else ""
    ratio = result.raw_bits_per_second / max(result.token_bits_per_second, 1e-9)
    yield "tokens", f"{result.groups} messages of {grid} tokens{values}, for {info.temporal_compression} frames each"
    yield (
        "rate",
        f"{result.token_bits_per_second / 1e6:.2f} Mbit/s instead of {result.raw_bits_per_second / 1e6:.1f} "
        f"Mbit/s of raw video: {ratio:.0f} times less",
    )
    yield "quality", f"PSNR {result.psnr:.2f} dB of the decoded pictures against the camera's"
    yield "losses", f"{result.lost} messages lost on the way"


main = make_main("demo", DemoSettings, run, __doc__)
