"""Recorded drives, opened whatever wrote them, without ROS: several cameras on one clock, in constant memory.

    from streamtok.drives.open_drive import open_drive

    with open_drive("drive.mcap") as drive:
        for frame in drive:
            print(frame.stream, frame.frame_id, frame.capture_ns, frame.image.shape)
        print(drive.counts, drive.problems)

A drive is an MCAP file (or a folder with the parts of one recording), a ROS 1 or ROS 2 bag, a video, a folder of
images, or a folder with one video or one folder of images per camera. images:DIR?fps=10 is one of images whose times
are not known, FILE?fps=20 a video without any, and parts:FILE the recording that begins with FILE, in a folder with
others. A file with several video streams has as many cameras. What a file is, is told from its contents.
Damage costs the frames it touches: they are counted in `counts` and listed in `problems`.
"""

import contextlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

from streamtok.drives.clocks import AskedClock
from streamtok.drives.drive import Drive
from streamtok.drives.folder_drive import (
    belong_together,
    find_logs,
    has_files,
    open_files,
    open_images,
    open_picture,
    open_video,
)
from streamtok.drives.folders import find_kind, list_recordings, read_head
from streamtok.drives.mcap_drive import McapDrive
from streamtok.drives.message_drive import ReadOptions
from streamtok.drives.named_logs import Logs
from streamtok.drives.topics import Topics
from streamtok.io.images.folder import OPTIONS
from streamtok.io.messages.depth import DepthRange
from streamtok.io.spec import split_file, split_options
from streamtok.io.suffixes import IMAGE_SUFFIXES, is_video
from streamtok.names import natural_key
from streamtok.recording.format import MAIN_METADATA
from streamtok.recording.mcap_file import McapFile
from streamtok.recording.parts import Parts
from streamtok.recording.reader import Recording

IMAGES, PARTS = "images:", "parts:"
SUFFIXES = {".mcap": "mcap", ".bag": "bag", ".db3": "db3"}
NAMES = {"mcap": "an MCAP file", "bag": "a ROS 1 bag", "db3": "a ROS 2 bag (SQLite)", "video": "a video"}


def parse_drive(name: str | Path) -> tuple[Path, dict[str, Any]]:
    """The path of a drive, and what `list_images` or a video's reader is told; ValueError for unknown options."""
    text = str(name)
    if not text.startswith(IMAGES):
        return (Path(text.removeprefix(PARTS)), {}) if text.startswith(PARTS) else split_file(text)
    folder, options = split_options(text, text.removeprefix(IMAGES), OPTIONS)
    return Path(folder), options


def resolve_drive(name: str) -> str:
    """Name the same drive from the root of the file system."""
    prefix = next((each for each in (IMAGES, PARTS) if name.startswith(each)), "")
    path, options = parse_drive(name)
    query = name.rpartition("?")[2] if options else ""
    return f"{prefix}{path.resolve()}{'?' * bool(query)}{query}"


def open_drive(
    path: str | Path, topics: Topics = None, clock: AskedClock = "auto", depth_range: DepthRange | None = None
) -> Drive:
    """Open a recorded drive. `topics` chooses cameras by topic or stream name, or names them: {topic: stream name}.

    `clock` times images of messages ("header", "publish" or "log"), by default the first of them that is usable.
    `depth_range` makes pictures of depth images, between these distances in metres. Raises FileNotFoundError, and
    ValueError for a file that is nothing readable or lacks a topic that was asked for. A file that is not what its name
    says is read as what it is, with a note in `problems`.
    """
    name, (path, options) = str(path), parse_drive(path)
    told = ReadOptions(topics, clock, depth_range)
    if not path.exists():
        raise FileNotFoundError(f"drive {str(path)!r}: no such file or folder")
    if name.startswith(PARTS):
        recording = _recording_of(path)
        return _open_parts(recording, recording.paths[0].parent, told)
    if path.is_dir() and options:
        return open_images(path, topics, options)
    if path.is_dir():
        if recordings := list_recordings(path):
            return _open_parts(_the_only(path, recordings), path, told)
        if (names := _drives_in(path)) not in ([], [str(path)]):
            raise _several(path, names)
        return open_files(path, topics)
    if not path.is_file():
        raise ValueError(f"drive {name!r} is a pipe, which is read once: use `streamtok encode` or `ingest`")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return open_picture(path, topics, options)
    kind, named = find_kind(path), SUFFIXES.get(Path(path.name.lower().removesuffix(".zstd")).suffix, "video")
    if kind == "video" and named != "video":
        raise ValueError(
            f"{path}: not {NAMES[named]}, nor any other recording: its first bytes are {read_head(path)!r}"
        )
    if kind == "video":
        return open_video(path, topics, options)
    drive = _open_parts(Parts([path]), path, told)
    if kind != named:
        drive.note("", f"named {path.suffix or 'without suffix'}, but it is {NAMES[kind]}: read as that")
    return drive


def find_recording(name: str | Path) -> Recording | None:
    """The recording of streamtok that the name of a drive means, None for other drives; raises FileNotFoundError."""
    path, options = parse_drive(name)
    if not path.exists():
        raise FileNotFoundError(f"drive {str(path)!r}: no such file or folder")
    if options or not (path.is_dir() or path.is_file()):
        return None
    if str(name).startswith(PARTS):
        parts = _recording_of(path)
    elif path.is_dir():
        parts = _the_only(path, found) if (found := list_recordings(path)) else Parts([])
    else:
        parts = Parts([path])
    if not parts.paths or find_kind(parts.paths[0]) != "mcap":
        return None
    with contextlib.suppress(ValueError):
        recording = Recording(parts.paths, parts.notes)
        return recording if recording.streams or recording.metadata else None
    return None


def measure_drive(name: str) -> int:
    """Bytes of a drive's files; raises FileNotFoundError."""
    path, _ = parse_drive(name)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    files = [path]
    if name.startswith(PARTS):
        files = _recording_of(path).paths
    elif path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def list_drives(name: str) -> list[str]:
    """The names of the drives that a name means: a folder of recordings that do not belong together is one each."""
    path, images = parse_drive(name)
    if images or name.startswith(PARTS) or not path.is_dir():
        return [name]
    found = _drives_in(path)
    return [name] if found in ([], [str(path)]) else found


def _drives_in(path: Path) -> list[str]:
    """The names of the drives in a folder and those in it."""
    recordings = list_recordings(path)
    if len(recordings) > 1:
        return [_name_parts(recording) for recording in recordings]
    if recordings:
        return [str(path)]
    if (logs := find_logs(path)) and (named := _name_logs(path, logs)):
        return named
    if has_files(path):
        return [str(path)]
    folders = [each for each in sorted(path.iterdir(), key=natural_key) if each.is_dir()]
    inside = {
        each: _drives_in(each) for each in folders if not path.resolve().is_relative_to(each.resolve())
    }  # no links up
    folders = [folder for folder, drives in inside.items() if drives]
    if folders and all(inside[each] == [str(each)] for each in folders) and belong_together(folders):
        return [str(path)]
    return [drive for folder in folders for drive in inside[folder]]


def _name_logs(path: Path, logs: Logs) -> list[str]:
    """The names of the recordings that images in a folder name, and of the drives in folders beside them.

    None where videos or recordings lie among the images.
    """
    folders = {folder for cameras in logs.values() for places in cameras.values() for folder in places}
    above = {
        parent for folder in folders for parent in (folder, *folder.parents) if parent.is_relative_to(path)
    } - folders
    if any(list_recordings(each) or any(map(is_video, each.iterdir())) for each in above | folders):
        return []
    beside = [each for folder in above for each in folder.iterdir() if each.is_dir() and each not in above | folders]
    others = [drive for each in sorted(beside, key=natural_key) for drive in _drives_in(each)]
    if len(logs) == 1 and not others:
        return [str(path)]
    return [f"{IMAGES}{path}?log={quote(log)}" for log in logs] + others


def _name_parts(recording: Parts) -> str:
    first = recording.paths[0]
    return f"{PARTS}{first}" if len(recording.paths) > 1 else str(first)


def _recording_of(first: Path) -> Parts:
    """The recording that begins with a file, with all of its parts."""
    return next(recording for recording in list_recordings(first.parent) if first in recording.paths)


def _the_only(path: Path, recordings: list[Parts]) -> Parts:
    """The recording of a folder; those of streamtok are read one after another, others must be named."""
    if len(recordings) == 1:
        return recordings[0]
    if all(_is_own(file) for recording in recordings for file in recording.paths):
        joined = Parts([], [f"{len(recordings)} recordings are read one after another"])
        for each in recordings:
            joined.paths += each.paths
            joined.notes += each.notes
        return joined
    raise _several(path, [str(recording.paths[0]) for recording in recordings])


def _several(path: Path, names: list[str]) -> ValueError:
    """The error of a folder with drives that are not one; `names` begin with its own."""
    first = [name.removeprefix(PARTS).removeprefix(f"{path}/") for name in names[:5]]
    what = "drives that do not belong together" if len(names) > 1 else "recording in a folder of its own"
    return ValueError(
        f"{path} holds {len(names)} {what}: {', '.join(first)}{', ...' if len(names) > 5 else ''}; name one of them, "
        f"or let `streamtok tokenize` do each"
    )


def _is_own(path: Path) -> bool:
    return find_kind(path) == "mcap" and any(name == MAIN_METADATA for name, _ in McapFile(path).metadata)


def _open_parts(recording: Parts, path: Path, options: ReadOptions) -> Drive:
    paths, notes = recording.paths, list(recording.notes)
    if len(paths) > 1:
        notes.append(f"{len(paths)} files are read as one recording: {paths[0].name} to {paths[-1].name}")
    kind = find_kind(paths[0])
    if kind == "mcap":
        return McapDrive(Parts(paths, notes), options, path)
    from streamtok.drives.bag_drive import BagDrive  # needs rosbags, an extra

    return BagDrive(Parts(paths, notes), kind, options, path)
