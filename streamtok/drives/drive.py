"""Recorded drives, read without ROS: several cameras on one clock, frame by frame, in constant memory.

    from streamtok.drives.drive import open_drive

    with open_drive("drive.mcap") as drive:
        for frame in drive:
            print(frame.stream, frame.frame_id, frame.capture_ns, frame.image.shape)
        print(drive.report())

A drive is an MCAP file (or a folder with the parts of one recording), a ROS 1 or ROS 2 bag, a video, a folder of
images, or a folder with one video or one folder of images per camera; images:DIR?fps=10 is one of images whose times
are not known. What a file is, is told from its contents.
Damage costs the frames it touches: they are counted in `counts` and listed in `problems`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from streamtok.drives.drive_name import parse_drive
from streamtok.drives.drive_reader import Drive

KINDS = {
    b"\x89MCAP0\r\n": "mcap",
    b"#ROSBAG V2.0": "bag",
    b"SQLite format 3\x00": "db3",
}
SUFFIXES = {".mcap": "mcap", ".bag": "bag", ".db3": "db3"}
NAMES = {"mcap": "an MCAP file", "bag": "a ROS 1 bag", "db3": "a ROS 2 bag (SQLite)", "video": "a video"}
Topics = Sequence[str] | dict[str, str] | None


def kind_of(path: Path) -> str:
    """ "mcap", "bag", "db3" or "video", told from the first bytes of a file; anything unknown counts as a video."""
    with path.open("rb") as stream:
        head = stream.read(16)
    if not head:
        raise ValueError(f"{path} is empty")
    return next((kind for magic, kind in KINDS.items() if head.startswith(magic)), "video")


def open_drive(path: str | Path, topics: Topics = None) -> Drive:
    """Open a recorded drive. `topics` chooses cameras by topic or stream name, or names them: {topic: stream name}.

    Raises FileNotFoundError, and ValueError for a file that is nothing readable or lacks a topic that was asked for.
    A file that is not what its name says is read as what it is, with a note in `problems`.
    """
    path, options = parse_drive(path)
    if not path.exists():
        raise FileNotFoundError(f"drive {str(path)!r}: no such file or folder")
    if options:
        from streamtok.drives.drive_folder import open_images

        return open_images(path, topics, options)
    if path.is_dir():
        return _open_folder(path, topics)
    kind, named = kind_of(path), SUFFIXES.get(path.suffix.lower(), "video")
    if kind == "video" and named != "video":
        raise ValueError(f"{path}: not {NAMES[named]}, nor any other recording: its first bytes are {_head(path)!r}")
    drive = _open_kind(kind, path, topics)
    if kind != named:
        drive.note("", f"named {path.suffix or 'without suffix'}, but it is {NAMES[kind]}: read as that")
    return drive


def _open_folder(path: Path, topics: Topics) -> Drive:
    """A bag's folder, the parts of one recording, a single bag, or files of one camera each."""
    if (path / "metadata.yaml").is_file() and any(path.glob("*.db3*")):
        from streamtok.drives.bag import BagDrive

        return BagDrive(path, "db3", topics)
    recordings = sorted(path.glob("*.mcap"))
    if recordings:
        from streamtok.drives.mcap_drive import McapDrive

        return McapDrive(recordings, topics)
    bags = sorted([*path.glob("*.bag"), *path.glob("*.db3")])
    if len(bags) == 1:
        return open_drive(bags[0], topics)
    if bags:
        raise ValueError(f"{path} holds {len(bags)} bags: open one of {', '.join(bag.name for bag in bags[:5])}")
    from streamtok.drives.drive_folder import open_files

    return open_files(path, topics)


def _open_kind(kind: str, path: Path, topics: Topics) -> Drive:
    if kind == "mcap":
        from streamtok.drives.mcap_drive import McapDrive

        return McapDrive([path], topics)
    if kind in ("bag", "db3"):
        from streamtok.drives.bag import BagDrive

        return BagDrive(path, kind, topics)
    from streamtok.drives.drive_folder import open_video

    return open_video(path, topics)


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(16)
