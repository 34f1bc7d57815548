"""Recorded drives, opened whatever wrote them, without ROS: several cameras on one clock, in constant memory.

    from streamtok.drives.open_drive import open_drive

    with open_drive("drive.mcap") as drive:
        for frame in drive:
            print(frame.stream, frame.frame_id, frame.capture_ns, frame.image.shape)
        print(drive.counts, drive.problems)

A drive is an MCAP file (or a folder with the parts of one recording), a ROS 1 or ROS 2 bag, a video, a folder of
images, or a folder with one video or one folder of images per camera. images:DIR?fps=10 is one of images whose times
are not known, FILE?fps=20 a video without any. A file with several video streams has as many cameras. What a file is,
is told from its contents.
Damage costs the frames it touches: they are counted in `counts` and listed in `problems`.
"""

import contextlib
from pathlib import Path
from typing import Any

from streamtok.drives.drive import Drive
from streamtok.drives.folder_drive import open_files, open_images, open_picture, open_video
from streamtok.drives.mcap_drive import McapDrive
from streamtok.drives.topics import Topics
from streamtok.io.images import OPTIONS
from streamtok.io.spec import split_file, split_options
from streamtok.io.suffixes import IMAGE_SUFFIXES
from streamtok.recording.reader import Recording, recording_parts

IMAGES = "images:"
KINDS = {b"\x89MCAP0\r\n": "mcap", b"#ROSBAG V2.0": "bag", b"SQLite format 3\x00": "db3"}
SUFFIXES = {".mcap": "mcap", ".bag": "bag", ".db3": "db3"}
NAMES = {"mcap": "an MCAP file", "bag": "a ROS 1 bag", "db3": "a ROS 2 bag (SQLite)", "video": "a video"}


def parse_drive(name: str | Path) -> tuple[Path, dict[str, Any]]:
    """The path of a drive, and what `list_images` or a video's reader is told; ValueError for unknown options."""
    text = str(name)
    if not text.startswith(IMAGES):
        return split_file(text)
    folder, options = split_options(text, text.removeprefix(IMAGES), OPTIONS)
    return Path(folder), options


def resolve_drive(name: str) -> str:
    """The same drive named from the root of the file system."""
    path, options = parse_drive(name)
    query = name.rpartition("?")[2] if options else ""
    return f"{IMAGES if name.startswith(IMAGES) else ''}{path.resolve()}{'?' * bool(query)}{query}"


def kind_of(path: Path) -> str:
    """ "mcap", "bag", "db3" or "video", told from the first bytes of a file; anything unknown counts as a video."""
    head = _read_head(path)
    if not head:
        raise ValueError(f"{path} is empty")
    return next((kind for magic, kind in KINDS.items() if head.startswith(magic)), "video")


def open_drive(path: str | Path, topics: Topics = None) -> Drive:
    """Open a recorded drive. `topics` chooses cameras by topic or stream name, or names them: {topic: stream name}.

    Raises FileNotFoundError, and ValueError for a file that is nothing readable or lacks a topic that was asked for.
    A file that is not what its name says is read as what it is, with a note in `problems`.
    """
    name, (path, options) = path, parse_drive(path)
    if not path.exists():
        raise FileNotFoundError(f"drive {str(path)!r}: no such file or folder")
    if path.is_dir():
        return open_images(path, topics, options) if options else _open_folder(path, topics)
    if not path.is_file():
        raise ValueError(f"drive {str(name)!r} is a pipe, which is read once: use `streamtok encode` or `ingest`")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return open_picture(path, topics, options)
    kind, named = kind_of(path), SUFFIXES.get(path.suffix.lower(), "video")
    if kind == "video" and named != "video":
        head = _read_head(path)
        raise ValueError(f"{path}: not {NAMES[named]}, nor any other recording: its first bytes are {head!r}")
    drive = open_video(path, topics, options) if kind == "video" else _open_kind(kind, path, topics)
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
    if not (any(path.glob("*.mcap")) if path.is_dir() else kind_of(path) == "mcap"):
        return None
    with contextlib.suppress(ValueError):
        recording = Recording(recording_parts(path))
        return recording if recording.streams or recording.metadata else None
    return None


def _open_folder(path: Path, topics: Topics) -> Drive:
    """A bag's folder, the parts of one recording, a single bag, or files of one camera each."""
    if (path / "metadata.yaml").is_file() and any(path.glob("*.db3*")):
        return _open_kind("db3", path, topics)
    recordings = sorted(path.glob("*.mcap"))
    if recordings:
        return McapDrive(recordings, topics)
    bags = sorted([*path.glob("*.bag"), *path.glob("*.db3")])
    if len(bags) == 1:
        return open_drive(bags[0], topics)
    if bags:
        raise ValueError(f"{path} holds {len(bags)} bags: open one of {', '.join(bag.name for bag in bags[:5])}")
    return open_files(path, topics)


def _open_kind(kind: str, path: Path, topics: Topics) -> Drive:
    if kind == "mcap":
        return McapDrive([path], topics)
    from streamtok.drives.bag_drive import BagDrive  # needs rosbags, an extra

    return BagDrive(path, kind, topics)


def _read_head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(16)
