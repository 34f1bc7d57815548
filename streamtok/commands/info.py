"""What a recording, a token file or a drive holds.

    streamtok info drive.mcap
    streamtok info drive.mcap --plot tokens.png --json

Duration, streams, rates, gaps, keyframes, bits per second and code usage; --plot draws the tokens over time.
"""

from __future__ import annotations

import json
import math
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from streamtok.commands.command import make_main
from streamtok.drives.clocks import AskedClock
from streamtok.drives.drive import Drive, describe_losses
from streamtok.drives.mcap_drive import McapDrive
from streamtok.drives.open_drive import find_recording, measure_drive, open_drive
from streamtok.drives.survey import TokenSurvey, plot_tokens, survey_frames, survey_tokens
from streamtok.io.depth import DepthRange
from streamtok.recording.parts import Parts
from streamtok.settings.fields import Flag, option
from streamtok.settings.shared import CommandSettings, ReadSettings
from streamtok.types import TokenGroup

if TYPE_CHECKING:
    from streamtok.recording.reader import Recording
    from streamtok.wire.message import TokenMessage

    Inspected = tuple[dict[str, Any], dict[str, TokenSurvey]]  # a report of plain values, and surveys per token stream


FACTS = "model", "tokenizer", "engine", "context", "metadata", "image_size", "bitrate"  # of a stream


class InfoSettings(CommandSettings, ReadSettings):
    """Flags of `streamtok info`."""

    path: Annotated[str, Flag("FILE", positional=True)] = Field(
        description="a recording, token file, bag, video, or folder with these"
    )
    plot: Annotated[Path, Flag("PNG")] | None = option(None, "draw the tokens over time")


def run(settings: InfoSettings) -> int:
    """Inspect one file or folder; 1 if nothing of it can be read."""
    reading = settings.clock, settings.depth_range
    report, surveys = inspect(settings.path, settings.plot is not None, *reading)
    if settings.plot:
        plot_tokens(surveys, settings.plot)
    print(json.dumps(report) if settings.as_json else format_report(report))
    if is_empty(report):
        print(f"streamtok info: {settings.path}: not one frame of it can be read", file=sys.stderr)
        return 1
    return 0


def inspect(
    path: str | Path, picture: bool = False, clock: AskedClock = "auto", depth_range: DepthRange | None = None
) -> Inspected:
    """(report of plain values, surveys per token stream) of a recording, a token file or any drive that can be opened.

    `clock` and `depth_range` are as for `open_drive`. With `picture` the
    surveys keep what `plot_tokens` draws. Raises ValueError or OSError for what cannot be opened.
    """
    from streamtok.tokens.tokenfile import is_token_file

    path = Path(path)
    if path.is_file() and is_token_file(path):
        return inspect_token_file(path, picture)
    recording = find_recording(path)
    if recording is not None:
        return inspect_recording(recording, picture)
    return inspect_drive(path, open_drive(path, None, clock, depth_range))


def to_group(message: TokenMessage) -> TokenGroup:
    """A recorded message as the group it was."""
    header = message.header
    return TokenGroup(
        stream=header.stream,
        tokens=message.tokens,
        keyframe=header.keyframe,
        epoch=header.epoch,
        frame_ids=header.frame_ids,
        capture_ns=header.capture_ns,
        dropped=header.dropped,
        repeated=header.repeated,
        encode_ns=header.encode_ns,
        image_size=(header.image_size[0], header.image_size[1]),
        hold=header.hold or 0.0,
    )


def inspect_recording(recording: Recording, picture: bool) -> Inspected:
    """What a recording with tokens holds."""
    infos = recording.first_infos()
    codes = {name: math.prod(info.levels) if info.levels else 0 for name, info in infos.items()}
    sessions: dict[str, set[str]] = {}

    def groups() -> Iterator[tuple[TokenGroup, int, int]]:
        for message in recording.messages():
            sessions.setdefault(message.stream, set()).add(message.header.session)
            yield to_group(message), len(message.payload), message.lost

    surveys = survey_tokens(groups(), codes, picture)
    streams: dict[str, Any] = {}
    for name, info in infos.items():
        facts = {fact: getattr(info, fact) for fact in FACTS} | {"sessions": len(sessions.get(name, ()))}
        streams[name] = facts | (surveys[name].report() if name in surveys else {"groups": 0})
    report: dict[str, Any] = {
        "kind": "recording",
        "files": [str(path) for path in recording.paths],
        "bytes": sum(path.stat().st_size for path in recording.paths),
        "complete": all(file.indexed for file in recording.files),
        "metadata": recording.metadata,
        "streams": streams,
        "frames_mode": recording.frames_mode,
        "missed": [[one.stream, one.kind, one.count, one.reason] for one in recording.missed()],
    }
    if recording.cameras:
        drive = McapDrive(Parts(recording.paths))
        report["cameras"] = survey_frames(drive)
        recording.damage += [text for text in drive.notes if text not in recording.damage]
    report["damage"] = recording.notes + recording.damage
    return report, surveys


def inspect_token_file(path: Path, picture: bool) -> Inspected:
    """What a token file holds; ValueError if it is damaged."""
    from streamtok.tokens.tokenfile import TokenFile

    file = TokenFile(path)
    file.check()
    levels = file.meta.get("levels") or file.meta.get("config", {}).get("levels") or []
    stream = file.meta.get("stream", "cam0")
    groups = ((group, group.tokens.nbytes, 0) for group in file)
    surveys = survey_tokens(groups, {stream: math.prod(levels) if levels else 0}, picture)
    facts = {key: file.meta.get(key) for key in ("model", "tokenizer", "image_size", "context", "source", "metadata")}
    held = {"hold_margin": file.meta.get("hold", 0.0)}
    streams = {name: facts | survey.report() | held for name, survey in surveys.items()}
    report = {"kind": "token file", "files": [str(path)], "bytes": path.stat().st_size, "streams": streams}
    return report, surveys


def inspect_drive(path: Path, drive: Drive) -> Inspected:
    """What a drive of other makers holds."""
    cameras, problems = survey_frames(drive), drive.notes
    size = measure_drive(str(path))
    report = {"kind": f"drive ({drive.kind})", "files": [str(path)], "bytes": size, "streams": {}}
    return report | {"cameras": cameras, "damage": problems}, {}


def is_empty(report: dict[str, Any]) -> bool:
    """Whether not one frame and not one group of tokens can be read."""
    frames = sum(camera["frames"] for camera in report.get("cameras", {}).values())
    return not frames and not any(stream.get("groups") for stream in report["streams"].values())


def format_report(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [f"{report['kind']}, {report['bytes'] / 1e6:.2f} MB: {', '.join(report['files'])}"]
    if report.get("complete") is False:
        lines.append("cut off or not closed: everything below is what can be read (`streamtok repair` makes it whole)")
    for name, stream in report["streams"].items():
        lines += [f"tokens {name}:", *format_stream(stream)]
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
