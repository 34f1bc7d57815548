"""Open recorded drives of any supported format, without ROS: several cameras on one clock, in constant memory.

    from streamtok.drives.open_drive import open_drive

    with open_drive("drive.mcap") as drive:
        for frame in drive:
            print(frame.stream, frame.frame_id, frame.capture_ns, frame.image.shape)
        print(drive.counts, drive.problems)

docs/drives.md says what a drive is. images:DIR?fps=10 is a folder of images without times, FILE?fps=20 a video without
times. parts:FILE is the recording that begins with FILE, in a folder with others. The kind of a file is told from its
contents. Damage costs the frames it touches: they are counted in `counts` and listed in `problems`.
"""

import contextlib
from pathlib import Path

from streamtok.drives.clips import why_clips
from streamtok.drives.clocks import AskedClock
from streamtok.drives.drive import Drive
from streamtok.drives.drive_names import (
    PARTS,
    drives_in,
    find_drive,
    list_below,
    list_drives,
    list_videos,
    recording_of,
)
from streamtok.drives.folder_drive import open_files, open_images, open_picture, open_video
from streamtok.drives.folders import HEAD_BYTES, find_kind, head_kind, list_recordings, name_kind
from streamtok.drives.image_folders import ImageFinder
from streamtok.drives.mcap_drive import McapDrive
from streamtok.drives.message_drive import ReadOptions
from streamtok.drives.topics import Topics
from streamtok.io.messages.depth import DepthRange
from streamtok.io.suffixes import IMAGE_SUFFIXES
from streamtok.recording.packing import read_head
from streamtok.recording.parts import Parts
from streamtok.recording.reader import Recording

NAMES = {"mcap": "an MCAP file", "bag": "a ROS 1 bag", "db3": "a ROS 2 bag (SQLite)"}


def open_drive(
    path: str | Path, topics: Topics = None, clock: AskedClock = "auto", depth_range: DepthRange | None = None
) -> Drive:
    """Open a recorded drive. `topics` chooses cameras by topic or stream name, or names them: {topic: stream name}.

    `clock` times the images of messages: "header", "publish" or "log", by default the first of these that is usable.
    `depth_range` makes pictures of depth images, between these distances in metres. Raises FileNotFoundError, and
    ValueError for a file that cannot be read or lacks a topic that was asked for. A file with a wrong suffix is read by
    its contents, with a note in `problems`.
    """
    return _open(str(path), ReadOptions(topics, clock, depth_range), ImageFinder())


def _open(name: str, read_options: ReadOptions, find: ImageFinder) -> Drive:
    path, options = find_drive(name)
    if name.startswith(PARTS):
        recording = recording_of(path)
        return _open_parts(recording, recording.paths[0].parent, read_options)
    if path.is_dir() and options:
        return open_images(path, read_options.topics, options, find)
    if path.is_dir():
        return _open_folder(path, read_options, find)
    if not path.is_file():
        raise ValueError(f"drive {name!r} is a pipe, which is read once: use `streamtok encode` or `ingest`")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return open_picture(path, read_options.topics, options)
    kind = find_kind(path)
    if kind == "video":
        return open_video(path, read_options.topics, options)
    try:
        drive = _open_parts(Parts([path]), path, read_options)
    except ValueError as error:
        head = read_head(path, HEAD_BYTES)
        if not head or head_kind(head):
            raise
        raise ValueError(f"{path}: not {NAMES[kind]}, nor any other recording: its first bytes are {head!r}") from error
    if kind != name_kind(path):
        drive.note("", f"named {path.suffix or 'without suffix'}, but it is {NAMES[kind]}: read as that")
    return drive


def _open_folder(path: Path, read_options: ReadOptions, find: ImageFinder) -> Drive:
    """Open the drive that lies in a folder itself, or whose cameras lie in the folders below."""
    recordings = list_recordings(path)
    if recordings:
        names = list_videos(path) + [drive for drives in list_below(path, find).values() for drive in drives]
        drive = _open_parts(_choose_recording(path, recordings), path, read_options)
    elif len(names := drives_in(path, find)) == 1 and names != [str(path)]:
        drive = _open(names.pop(), read_options, find)
        drive.note("", f"is the only drive in {path}")
    elif names and str(path) not in names:
        raise _explain_several(path, names)
    else:
        drive = open_files(path, read_options.topics, find)
    if beside := [name.removeprefix(f"{path}/") for name in names if name != str(path)]:
        drive.note("", f"{len(beside)} other drives in the folder are left out: {', '.join(beside[:3])}")
    return drive


def find_recording(name: str | Path) -> Recording | None:
    """The streamtok recording that a drive's name stands for, None for other drives; raises FileNotFoundError."""
    path, options = find_drive(name)
    if options or not (path.is_dir() or path.is_file()):
        return None
    if str(name).startswith(PARTS):
        parts = recording_of(path)
    elif path.is_dir():
        parts = _choose_recording(path, found) if (found := list_recordings(path)) else Parts([])
        names = [] if found else list_drives(str(path))
        if len(names) == 1 and names != [str(path)]:
            return find_recording(names[0])
    else:
        parts = Parts([path])
    if not parts.paths or find_kind(parts.paths[0]) != "mcap":
        return None
    with contextlib.suppress(ValueError):
        recording = Recording(parts.paths, parts.notes)
        return recording if recording.streams or recording.metadata else None
    return None


def _choose_recording(path: Path, recordings: list[Parts]) -> Parts:
    """The recording of a folder; several of streamtok's are read one after another, several others are an error."""
    if len(recordings) == 1:
        return recordings[0]
    if all(find_recording(file) for recording in recordings for file in recording.paths):
        notes = [note for recording in recordings for note in recording.notes]
        paths = [file for recording in recordings for file in recording.paths]
        return Parts(paths, [f"{len(recordings)} recordings are read one after another", *notes])
    raise _explain_several(path, [str(recording.paths[0]) for recording in recordings])


def _explain_several(path: Path, names: list[str]) -> ValueError:
    """The error for a folder with several drives, `names`."""
    first = [name.removeprefix(PARTS).removeprefix(f"{path}/") for name in names[:5]]
    reason = f" ({reason})" if (reason := why_clips(list_videos(path))) else ""
    return ValueError(
        f"{path} holds {len(names)} drives that do not belong together{reason}: {', '.join(first)}"
        f"{', ...' if len(names) > 5 else ''}; name one of them, or let `streamtok tokenize` do each"
    )


def _open_parts(recording: Parts, path: Path, options: ReadOptions) -> Drive:
    paths, notes = recording.paths, list(recording.notes)
    if len(paths) > 1:
        notes.append(f"{len(paths)} files are read as one recording: {paths[0].name} to {paths[-1].name}")
    kind = find_kind(paths[0])
    if kind == "mcap":
        return McapDrive(Parts(paths, notes), options, path)
    from streamtok.drives.bag_drive import BagDrive  # needs rosbags, an extra

    return BagDrive(Parts(paths, notes), kind, options, path)
