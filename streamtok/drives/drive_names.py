"""Parse the names of drives, and list the drives in a folder."""

from collections.abc import Collection
from pathlib import Path
from typing import Any
from urllib.parse import quote

from streamtok.drives.clips import why_clips
from streamtok.drives.folder_drive import belong_together, find_logs, has_images
from streamtok.drives.folders import list_recordings
from streamtok.drives.image_folders import FolderWalk, ImageFinder, folders_of
from streamtok.io.images.folder import OPTIONS
from streamtok.io.spec import split_file, split_options
from streamtok.io.suffixes import is_video
from streamtok.recording.parts import Parts

IMAGES, PARTS = "images:", "parts:"


def parse_drive(name: str | Path) -> tuple[Path, dict[str, Any]]:
    """The path of a drive, and its options for `list_images` or `VideoReader`; ValueError for unknown options."""
    text = str(name)
    if not text.startswith(IMAGES):
        return (Path(text.removeprefix(PARTS)), {}) if text.startswith(PARTS) else split_file(text)
    folder, options = split_options(text, text.removeprefix(IMAGES), OPTIONS)
    return Path(folder), options


def find_drive(name: str | Path) -> tuple[Path, dict[str, Any]]:
    """`parse_drive`, but raises FileNotFoundError if the drive does not exist."""
    path, options = parse_drive(name)
    if not path.exists():
        raise FileNotFoundError(f"drive {str(path)!r}: no such file or folder")
    return path, options


def resolve_drive(name: str) -> str:
    """The drive's name with an absolute path."""
    prefix = next((each for each in (IMAGES, PARTS) if name.startswith(each)), "")
    path, options = parse_drive(name)
    query = name.rpartition("?")[2] if options else ""
    return f"{prefix}{path.resolve()}{'?' * bool(query)}{query}"


def measure_drive(name: str) -> int:
    """The size of a drive's files in bytes; raises FileNotFoundError."""
    path, _ = find_drive(name)
    files = recording_of(path).paths if name.startswith(PARTS) else path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def list_drives(name: str) -> list[str]:
    """The drives that a name stands for: itself, or each drive of a folder whose recordings do not belong together."""
    path, images = parse_drive(name)
    if images or name.startswith(PARTS) or not path.is_dir():
        return [name]
    found = drives_in(path, ImageFinder())
    return [name] if found in ([], [str(path)]) else found


def drives_in(path: Path, find: ImageFinder, walk: FolderWalk | None = None, named: Collection[Path] = ()) -> list[str]:
    """The names of the drives in a folder and those below it, on a new walk unless one is given.

    `named` are the folders of images whose names hold their recording (see `list_logs`).
    """
    logs = {} if named else find_logs(path, find)
    named = folders_of(logs) or named
    files = list_file_drives(path)
    if not files and path not in named and has_images(path, find):
        return [str(path)]
    below = list_below(path, find, walk, named) if files or path not in named else {}  # no drives lie below images
    alone = not files and below and not any(folder.is_relative_to(path) for folder in named)
    if alone and all(below[each] == [str(each)] for each in below) and belong_together(list(below), find):
        return [str(path)]
    own = [f"{IMAGES}{path}?log={quote(log)}" for log in logs] + files
    if len(own) == 1 and not below:
        return [str(path)]
    return own + [drive for drives in below.values() for drive in drives]


def list_file_drives(path: Path) -> list[str]:
    """The names of the drives that recordings and videos in a folder itself are; videos may be the folder's cameras."""
    recordings, videos = [name_parts(recording) for recording in list_recordings(path)], list_videos(path)
    if recordings or why_clips(videos):
        return recordings + videos
    return [str(path)] if videos else []


def list_videos(path: Path) -> list[str]:
    """The names of the videos in a folder."""
    return [str(video) for video in sorted(filter(is_video, path.iterdir()))]


def list_below(
    path: Path, find: ImageFinder, walk: FolderWalk | None = None, named: Collection[Path] = ()
) -> dict[Path, list[str]]:
    """The folders in `path` that hold drives, with the names of these; the arguments are those of `drives_in`."""
    walk = walk or FolderWalk(path)
    found = {folder: drives_in(folder, find, walk, named) for folder in walk.folders_in(path)}
    return {folder: drives for folder, drives in found.items() if drives}


def name_parts(recording: Parts) -> str:
    """The name of a recording in a folder with others."""
    first = recording.paths[0]
    return f"{PARTS}{first}" if len(recording.paths) > 1 else str(first)


def recording_of(first: Path) -> Parts:
    """The recording that begins with a file, with all of its parts."""
    return next(recording for recording in list_recordings(first.parent) if first in recording.paths)
