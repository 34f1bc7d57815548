"""Reports what a recording, a token file or a drive holds, as plain values, with surveys of its token streams."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streamtok.drives.clocks import AskedClock
from streamtok.drives.drive_names import measure_drive
from streamtok.drives.mcap_drive import McapDrive
from streamtok.drives.open_drive import find_recording, open_drive
from streamtok.drives.survey import TokenSurvey, survey_frames, survey_tokens
from streamtok.io.messages.depth import DepthRange
from streamtok.recording.parts import Parts
from streamtok.recording.reader import Recording
from streamtok.tokens.tokenfile import TokenFile, is_token_file
from streamtok.types import TokenGroup
from streamtok.wire.message import TokenMessage

Inspected = tuple[dict[str, Any], dict[str, TokenSurvey]]  # a report of plain values, and a survey per token stream
FACTS = "model", "tokenizer", "engine", "context", "metadata", "image_size", "bitrate"  # reported of each stream


def inspect(
    path: str | Path,
    picture: bool = False,
    clock: AskedClock = "auto",
    depth_range: DepthRange | None = None,
    progress: bool = False,
) -> Inspected:
    """Inspect a recording, a token file or any drive; returns a report of plain values, and a survey per token stream.

    `clock` and `depth_range` are as for `open_drive`. With `picture` the surveys keep what `plot_tokens` draws, with
    `progress` a bar is shown on a terminal. Raises ValueError or OSError for what cannot be opened.
    """
    path = Path(path)
    if path.is_file() and is_token_file(path):
        return inspect_token_file(path, picture)
    if (recording := find_recording(path)) is not None:
        return inspect_recording(recording, picture, progress)
    drive = open_drive(path, None, clock, depth_range)
    report = {"kind": f"drive ({drive.kind})", "files": [str(path)], "bytes": measure_drive(str(path)), "streams": {}}
    cameras = survey_frames(drive, progress)
    return report | {"cameras": cameras, "damage": drive.notes, "failure": drive.failure}, {}


def to_group(message: TokenMessage) -> TokenGroup:
    """Convert a recorded message to the group that it was made from."""
    header, (height, width) = message.header, message.header.image_size
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
        image_size=(height, width),
        hold=header.hold or 0.0,
    )


def inspect_recording(recording: Recording, picture: bool, progress: bool) -> Inspected:
    """Inspect a recording that holds tokens."""
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
        report["cameras"] = survey_frames(drive, progress)
        recording.damage += [text for text in drive.notes if text not in recording.damage]
        report["failure"] = drive.failure
    report["damage"] = recording.notes + recording.damage
    return report, surveys


def inspect_token_file(path: Path, picture: bool) -> Inspected:
    """Inspect a token file; ValueError if it is damaged."""
    file = TokenFile(path)
    file.check()
    levels = file.meta.get("levels") or file.meta.get("config", {}).get("levels") or []
    stream = file.meta.get("stream", "cam0")
    groups = ((group, group.tokens.nbytes, 0) for group in file)
    surveys = survey_tokens(groups, {stream: math.prod(levels) if levels else 0}, picture)
    facts = {key: file.meta.get(key) for key in ("model", "tokenizer", "image_size", "context", "source", "metadata")}
    margin = {"hold_margin": file.meta.get("hold", 0.0)}
    streams = {name: facts | survey.report() | margin for name, survey in surveys.items()}
    report = {"kind": "token file", "files": [str(path)], "bytes": path.stat().st_size, "streams": streams}
    return report, surveys
