"""Group the files of a folder into recordings, by the rules of docs/drives.md ("Which files")."""

import contextlib
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from streamtok.recording.format import MAIN_METADATA
from streamtok.recording.mcap_file import McapFile
from streamtok.recording.packing import read_head
from streamtok.recording.parts import (
    SUFFIXES,
    Parts,
    find_missing,
    list_files,
    part_name,
    read_list,
    suffix_of,
)

KINDS = {b"\x89MCAP0\r\n": "mcap", b"#ROSBAG V2.0": "bag", b"SQLite format 3\x00": "db3"}
HEAD_BYTES = 16
BETWEEN_NS = 60 * 10**9  # at most between two parts of a recording
TIME_IN_NAME = re.compile(r"\d{4}(-\d\d){5}")  # ROS 1 names each part by its start
OVERLAP = 0.5  # share of the shorter file; with more overlap, two were recorded at the same time


@dataclass
class FoundFile:
    """One file: its kind, the recording that it names, its first and last log time, ns (None: unknown), its topics."""

    path: Path
    kind: str
    recording: tuple[str, str]
    part: int
    span: tuple[int, int] | None = None
    topics: frozenset[str] = frozenset()


def find_kind(path: Path) -> str:
    """ "mcap", "bag", "db3" or "video", by the first bytes of a file or of a packed file's content.

    If these are not known, which damage can cause, its name decides. ValueError for an empty file.
    """
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty")
    return head_kind(read_head(path, HEAD_BYTES)) or name_kind(path)


def head_kind(head: bytes) -> str:
    """The kind by the first bytes alone; empty if they are not known."""
    return next((kind for magic, kind in KINDS.items() if head.startswith(magic)), "")


def name_kind(path: Path) -> str:
    """The kind by the name alone."""
    suffix = suffix_of(path)
    return suffix[1:] if suffix in SUFFIXES else "video"


def list_recordings(folder: Path) -> list[Parts]:
    """The recordings that lie in a folder itself, each with its files in order and notes on what is wrong."""
    files = list_files(folder)
    if len(files.paths) < 2:
        return [files] if files.paths else []
    listed = {name for name in read_list(folder)[0] or () if (folder / name).is_file()}
    found = [_inspect_file(path, listed) for path in files.paths]
    _claim_unreadable(found)
    groups = _join_cameras(list(_split(found)))
    recordings = [Parts([each.path for each in group], find_missing([each.path for each in group])) for group in groups]
    if recordings:
        recordings[0].notes[:0] = files.notes
    return recordings


def _inspect_file(path: Path, listed: set[str]) -> FoundFile:
    name, number = part_name(path)
    is_listed = path.name in listed or name in {part_name(Path(each))[0] for each in listed}
    kind = name_kind(path)
    found = FoundFile(path, kind, ("listed", "") if is_listed else ("", TIME_IN_NAME.sub("", name)), number)
    with contextlib.suppress(ValueError, ImportError, OSError):  # reported when it is opened
        kind = found.kind = find_kind(path)
        if kind == "mcap":
            file = McapFile(path)
            found.span, found.topics = file.span, frozenset(channel.topic for channel in file.channels.values())
            facts = next((values for name, values in file.metadata if name == MAIN_METADATA), {})
            if facts.get("first_file"):
                found.recording, found.part = ("own", facts["first_file"]), int(facts.get("part", 0))
        elif kind != "video":
            from streamtok.drives.bag_drive import FILES  # needs rosbags, an extra

            bag = FILES[kind](path, lambda text: None, False)  # by its index only: salvage and copies take long
            found.span, found.topics = bag.span, frozenset(topic.name for topic in bag.topics)
    return found


def _claim_unreadable(found: list[FoundFile]) -> None:
    """Assign parts of streamtok's recordings by name if they are too damaged to hold their first file's name."""
    own = {part_name(Path(each.recording[1]))[0]: each.recording for each in found if each.recording[0] == "own"}
    for each in found:
        if not each.topics and each.recording[1] in own:
            each.recording, each.part = own[each.recording[1]], max(0, each.part)


def _split(found: Iterable[FoundFile]) -> Iterator[list[FoundFile]]:
    """Group files by recording; groups by file name alone are split where their times do not continue."""
    groups: dict[tuple[str, str, str], list[FoundFile]] = {}
    for each in found:
        groups.setdefault((*each.recording, each.kind), []).append(each)
    for (how, _, _), group in groups.items():
        if how == "own":
            group.sort(key=lambda each: each.part)
        if how:
            yield group
            continue
        if len({each.part for each in group}) == len(group):  # not by their names, whose time is a local one
            group.sort(key=lambda each: each.part)
        elif all(each.span for each in group):
            group.sort(key=lambda each: each.span or (0, 0))
        begin = 0
        for at, (before, after) in enumerate(itertools.pairwise(group), 1):
            if not _follows(before, after, group):
                yield group[begin:at]
                begin = at
        yield group[begin:]


def _follows(before: FoundFile, after: FoundFile, group: list[FoundFile]) -> bool:
    """Whether a part begins where the one before ends, as far as known; parts between them may be missing."""
    if before.span is None or after.span is None or before.part < 0:
        return before.part >= 0
    longest = max(each.span[1] - each.span[0] for each in group if each.span)
    gone = max(0, after.part - before.part - 1)
    gap = after.span[0] - before.span[1]
    in_order = after.part > before.part and after.span[0] > before.span[0]
    return in_order and -BETWEEN_NS <= gap <= BETWEEN_NS + 2 * gone * longest


def _join_cameras(groups: list[list[FoundFile]]) -> list[list[FoundFile]]:
    """Join single files that were recorded at the same time, with no topic in common, into one recording."""
    joined: list[list[FoundFile]] = []
    for group in groups:
        other = next((each for each in joined if len(group) == 1 and _share_clock(each, group[0])), None)
        if other is None:
            joined.append(group)
        else:
            other.extend(group)
    return joined


def _share_clock(group: list[FoundFile], found: FoundFile) -> bool:
    for each in group:
        if each.span is None or found.span is None or each.topics & found.topics or each.kind != found.kind:
            return False
        both = min(each.span[1], found.span[1]) - max(each.span[0], found.span[0])
        shorter = min(each.span[1] - each.span[0], found.span[1] - found.span[0])
        if both < OVERLAP * max(1, shorter):
            return False
    return True
