"""Reports what a recording, a token file or a drive holds, as plain values, with surveys of its token streams."""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from streamtok.drives.clocks import AskedClock
from streamtok.drives.drive_names import measure_drive
from streamtok.drives.mcap_drive import McapDrive
from streamtok.drives.open_drive import find_recording, open_drive
from streamtok.drives.survey import TokenSurvey, survey_frames
from streamtok.io.messages.depth import DepthRange
from streamtok.recording.parts import Parts
from streamtok.recording.reader import Recording
from streamtok.times import time_covered
from streamtok.tokens.tokenfile import TOKEN_SUFFIX, TokenFile, is_token_file
from streamtok.tokens.tracks import find_drives

FACTS = "model", "tokenizer", "engine", "context", "metadata", "image_size", "bitrate"  # reported of each stream
MOST_NAMES = 20  # models, streams and damaged files of a folder that a report names


@dataclass(frozen=True)
class Inspection:
    """What a file or folder holds: a `report` of plain values, and a survey of each token stream, by name."""

    report: dict[str, Any]
    surveys: dict[str, TokenSurvey] = field(default_factory=dict)


def inspect(
    path: str | Path,
    clock: AskedClock = "auto",
    depth_range: DepthRange | None = None,
    *,
    progress: bool = False,
) -> Inspection:
    """Inspect a recording, a token file, any drive, or a folder: its drive, and the sum of the token files in it.

    `clock` and `depth_range` are as for `open_drive`. With `progress` a bar is shown on a terminal. Raises ValueError
    or OSError for what cannot be opened.
    """
    path = Path(path)
    if path.is_file() and is_token_file(path):
        return inspect_token_file(path)
    files = find_token_files(path)
    try:
        found = inspect_drive(path, clock, depth_range, progress)
    except ValueError:
        if not files:
            raise
        return sum_token_files(path, files, progress)
    if files:
        beside = sum_token_files(path, files, progress).report
        both = {"sum": beside["sum"], "damage": beside["damage"] + found.report["damage"]}
        return Inspection(found.report | both, found.surveys)
    return found


def inspect_drive(path: Path, clock: AskedClock, depth_range: DepthRange | None, progress: bool) -> Inspection:
    """Inspect a recording or any other drive; the arguments are as in `inspect`."""
    if (recording := find_recording(path)) is not None:
        return inspect_recording(recording, progress)
    drive = open_drive(path, None, clock, depth_range)
    report = {"kind": f"drive ({drive.kind})", "files": [str(path)], "bytes": measure_drive(str(path)), "streams": {}}
    cameras = survey_frames(drive, progress)
    return Inspection(report | {"cameras": cameras, "damage": drive.notes, "failure": drive.failure})


def inspect_recording(recording: Recording, progress: bool) -> Inspection:
    """Inspect a recording that holds tokens; `progress` is as in `inspect`."""
    infos = recording.first_infos()
    surveys = {name: TokenSurvey(math.prod(info.levels) if info.levels else 0) for name, info in infos.items()}
    sessions: dict[str, set[str]] = defaultdict(set)
    for message in recording.messages():
        surveys[message.stream].add(message.header, message.tokens, len(message.payload), message.lost)
        sessions[message.stream].add(message.header.session)
    streams: dict[str, Any] = {}
    for name, info in infos.items():
        found = surveys[name].report() if sessions[name] else {"groups": 0}
        streams[name] = {fact: getattr(info, fact) for fact in FACTS} | {"sessions": len(sessions[name])} | found
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
    return Inspection(report, surveys)


def inspect_token_file(path: Path) -> Inspection:
    """Inspect a token file; ValueError if it is damaged."""
    file = TokenFile(path)
    file.check()
    levels = file.meta.get("levels") or file.meta.get("config", {}).get("levels") or []
    survey = TokenSurvey(math.prod(levels) if levels else 0)
    for group in file:
        survey.add(group, group.tokens, group.tokens.nbytes)
    facts = {key: file.meta.get(key) for key in ("model", "tokenizer", "image_size", "context", "source", "metadata")}
    stream, margin = str(file.meta.get("stream", "cam0")), {"hold_margin": file.meta.get("hold", 0.0)}
    streams = {stream: facts | survey.report() | margin}
    report = {"kind": "token file", "files": [str(path)], "bytes": path.stat().st_size, "streams": streams}
    return Inspection(report, {stream: survey})


def find_token_files(folder: Path) -> list[Path]:
    """The token files of a folder, sorted by drive, searched recursively; an empty list if it is none or has none."""
    try:
        found = [path for drive in find_drives(folder) for path in drive] if folder.is_dir() else []
    except FileNotFoundError:
        return []
    return [path for path in found if path.suffix == TOKEN_SUFFIX]


def sum_token_files(folder: Path, files: list[Path], progress: bool) -> Inspection:
    """Add up the token files of a folder, of any number; their tokens are not read. The report names damaged files."""
    total: Counter[str] = Counter()
    names: dict[str, Counter[str]] = {"models": Counter(), "grids": Counter(), "streams": Counter()}
    damage = []
    for path in tqdm(files, "read", unit="file", disable=None if progress else True):
        try:
            file = TokenFile(path)
            file.check(tokens=False)
        except (OSError, ValueError) as error:
            damage.append(str(error))
            continue
        counts = {name: int(getattr(file, name).sum()) for name in ("keyframe", "dropped", "repeated")}
        total.update(counts, groups=len(file), frames=len(file.frame_ids), bytes=path.stat().st_size)
        total.update(covered_ns=time_covered(np.array(file.capture_ns)))
        names["models"][f"{file.meta.get('model')} ({str(file.meta.get('tokenizer'))[:16]})"] += 1
        names["grids"]["x".join(map(str, file.tokens.shape[1:]))] += 1
        names["streams"][str(file.meta.get("stream", "cam0"))] += 1
    found: dict[str, Any] = {name: total[name] for name in ("groups", "frames", "dropped", "repeated")}
    found |= {"keyframes": total["keyframe"], "seconds": round(total["covered_ns"] / 1e9, 3)}
    found |= {
        kind: {"count": len(in_files), "most": dict(in_files.most_common(MOST_NAMES))}
        for kind, in_files in names.items()
    }
    report = {"kind": f"{len(files)} token files", "files": [str(folder)], "bytes": total["bytes"], "streams": {}}
    failure = f"{len(damage)} of {len(files)} token files cannot be read" if damage else None
    return Inspection(report | {"sum": found, "damage": damage[:MOST_NAMES], "failure": failure})
