"""Report what a recording, a token file or a drive holds.

    streamtok info drive.mcap
    streamtok info drive.mcap --plot tokens.png --json

The report has duration, streams, rates, gaps, keyframes, bits per second and code usage; --plot draws tokens over time.
"""

import json
import sys
import textwrap
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from streamtok.commands.command import make_main
from streamtok.drives.drive import describe_losses
from streamtok.drives.survey import plot_tokens
from streamtok.settings.fields import Flag, Switch, option
from streamtok.settings.shared import CommandSettings, ReadSettings
from streamtok.tokens.inspecting import inspect

SHOWN = 6  # models, grids or streams of a folder that are printed


class InfoSettings(CommandSettings, ReadSettings):
    """Flags of `streamtok info`."""

    path: Annotated[str, Flag("FILE", positional=True)] = Field(
        description="a recording, token file, bag, video, or folder with these"
    )
    plot: Annotated[Path, Flag("PNG")] | None = option(None, "draw the tokens over time")
    quiet: Switch = option(False, "no progress bar")


def run(settings: InfoSettings) -> int:
    """Inspect one file or folder; returns 1 if nothing of it can be read, or a file no longer."""
    found = inspect(settings.path, settings.clock, settings.depth_range, progress=not settings.quiet)
    report = found.report
    if settings.plot:
        plot_tokens(found.surveys, settings.plot)
    print(settings.format_result(report, format_contents(report)))
    if failure := find_failure(report):
        print(f"streamtok info: {settings.path}: {failure}", file=sys.stderr)
    return int(failure is not None)


def find_failure(report: dict[str, Any]) -> str | None:
    """What could not be read to its end; None if all could, and there is a frame or a token group."""
    frames = sum(camera["frames"] for camera in report.get("cameras", {}).values())
    groups = any(found.get("groups") for found in [*report["streams"].values(), report.get("sum", {})])
    return report.get("failure") or (None if frames or groups else "not one frame of it can be read")


def format_contents(report: dict[str, Any]) -> str:
    """The report as lines of text."""
    lines = [f"{report['kind']}, {report['bytes'] / 1e6:.2f} MB: {', '.join(report['files'])}"]
    if report.get("complete") is False:
        lines.append("cut off or not closed: everything below is what can be read (`streamtok repair` makes it whole)")
    for name, stream in report["streams"].items():
        lines += [f"tokens {name}:", *format_stream(stream)]
    if "sum" in report:
        lines += ["token files:", *format_sum(report["sum"])]
    for name, camera in report.get("cameras", {}).items():
        lines.append(
            f"frames {name}: {camera['frames']} in {camera['seconds']:.1f} s, {camera['frames_per_second']:.2f} per "
            f"second, {camera['time_gap_count']} gaps"
        )
    lines += describe_losses(report.get("cameras", {}))
    if report.get("frames_mode") == "lossy":
        lines.append("the frames are lossy: replay --verify refuses them")
    for stream, kind, count, reason in report.get("missed", []):
        lines.append(f"missed: {count} {kind} of {stream} ({reason})")
    lines += [f"note: {text}" for text in report.get("damage", [])[:20]]
    return "\n".join(lines)


def format_sum(found: dict[str, Any]) -> list[str]:
    """The lines of a folder of token files."""
    hours = found["seconds"] / 3600
    lines = [
        f"  {found['groups']} groups from {found['frames']} frames, {hours:.2f} hours of all streams together",
        f"  {found['keyframes']} keyframes, {found['dropped']} frames dropped, {found['repeated']} repeated",
    ]
    for name in ("models", "grids", "streams"):
        most = [f"{one} in {count}" for one, count in list(found[name]["most"].items())[:SHOWN]]
        others = [f"{found[name]['count'] - SHOWN} others"] if found[name]["count"] > SHOWN else []
        lines.append(f"  {name}: {', '.join(most + others)}")
    return [*lines, "  the tokens were not read: `streamtok info FILE` checks one file, and counts its codes"]


def format_stream(stream: dict[str, Any]) -> list[str]:
    """The lines of one token stream."""
    if not stream.get("groups"):
        return ["  nothing"]
    lines = [
        f"  {stream['groups']} groups of {stream['grid']} from {stream['frames']} frames, {stream['seconds']:.1f} s, "
        f"{stream['frames_per_second']:.2f} frames per second",
        f"  {stream['keyframes']} keyframes, {stream['lost']} messages lost, {stream['dropped']} frames dropped, "
        f"{stream['repeated']} repeated, {stream['time_gap_count']} gaps in time",
        f"  {stream['bits_per_second'] / 1e3:.1f} kbit/s, model {stream['model']} ({str(stream['tokenizer'])[:16]})",
    ]
    if "codes" in stream:
        lines.append(
            f"  {stream['codes_used']} of {stream['codes']} codes used, entropy {stream['entropy_bits_per_token']:.2f} "
            f"of {stream['bits_per_token']:.2f} bits per token"
        )
    if stream["hold_margin"] or stream.get("bitrate"):
        asked = f", its messages held to {stream['bitrate'] / 1e3:.1f} kbit/s" if stream.get("bitrate") else ""
        lines.append(f"  levels held within {stream['hold_margin']:.2f} in the mean{asked}")
    if stream["metadata"]:
        lines.append(f"  metadata {textwrap.shorten(json.dumps(stream['metadata']), 200)} (whole with --json)")
    for at, seconds in stream["time_gaps"][:5]:
        lines.append(f"  gap at {at:.2f} s: {seconds:.3f} s")
    return lines


main = make_main("info", InfoSettings, run, __doc__)
