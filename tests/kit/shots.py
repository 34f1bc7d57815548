"""Drives of small pictures that hold their numbers, with any times in their messages."""

from __future__ import annotations

import dataclasses
import shutil
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamtok.drives.drive import LEFT_OUT
from streamtok.drives.open_drive import open_drive
from tests.kit.drives import START_NS, write_topics

STEP_NS = 100_000_000


@dataclass(frozen=True)
class Shot:
    """One message: the number in its picture, the header's stamp, when it was logged, and (if it says so) published."""

    number: int
    stamp_ns: int
    log_ns: int
    publish_ns: int = 0


def regular(count: int, stamp_ns: int = START_NS) -> list[Shot]:
    return [Shot(n, stamp_ns + n * STEP_NS, START_NS + n * STEP_NS + 7_000_000) for n in range(count)]


def restamp(shots: list[Shot], stamps: dict[int, int]) -> list[Shot]:
    return [dataclasses.replace(shot, stamp_ns=stamps.get(shot.number, shot.stamp_ns)) for shot in shots]


def write(
    path: Path, shots: list[Shot], topic: str = "/cam/image_raw", others: Sequence[Shot] = (), **options: Any
) -> Path:
    """An MCAP file with ROS 2 images of 8 x 8 grey pixels that hold the shot's number; `others` are a second camera."""
    topics = {name: map(log_shot, each) for name, each in ((topic, shots), ("/other/image_raw", others)) if each}
    return write_topics(path, "sensor_msgs/msg/Image", topics, **{"chunk_size": 400} | options)


def write_rosbag(path: Path, shots: list[Shot]) -> Path:
    """A ROS 1 bag (.bag), or the file of a ROS 2 bag (.db3), as `write` makes an MCAP file."""
    from rosbags import rosbag1, rosbag2
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC if path.suffix == ".bag" else Stores.ROS2_HUMBLE)
    folder = path.with_suffix("")
    if path.suffix == ".bag":
        bag = rosbag1.Writer(path)
        bag.chunk_threshold = 600
    else:
        bag = rosbag2.Writer(folder, version=9, storage_plugin=rosbag2.StoragePlugin.SQLITE3)
    with bag as writer:
        camera = writer.add_connection("/cam/image_raw", "sensor_msgs/msg/Image", typestore=store)
        for shot in shots:
            writer.write(camera, shot.log_ns, (ros1_message if path.suffix == ".bag" else ros_message)(shot))
    if path.suffix == ".db3":
        (folder / path.name).rename(path)
        shutil.rmtree(folder)
    return path


def ros1_message(shot: Shot) -> bytes:
    stamp = struct.pack("<III", 0, shot.stamp_ns // 10**9, shot.stamp_ns % 10**9)
    size = struct.pack("<I", 3) + b"cam" + struct.pack("<II", 8, 8) + struct.pack("<I", 5) + b"mono8" + b"\0"
    return stamp + size + struct.pack("<II", 8, 64) + bytes([shot.number % 256]) * 64


def log_shot(shot: Shot) -> tuple[int, bytes, int]:
    return shot.log_ns, ros_message(shot), shot.publish_ns or shot.log_ns


def ros_message(shot: Shot) -> bytes:
    stamp = struct.pack("<iI", shot.stamp_ns // 10**9, shot.stamp_ns % 10**9)
    head = (
        stamp + struct.pack("<I", 4) + b"cam\0" + struct.pack("<II", 8, 8) + struct.pack("<I", 6) + b"mono8\0" + b"\0"
    )
    head += b"\0" * (-len(head) % 4) + struct.pack("<II", 8, 64)
    return b"\0\1\0\0" + head + bytes([shot.number % 256]) * 64


@dataclass
class Read:
    """What a drive gave: the numbers of its pictures, frame ids, times, and its account."""

    numbers: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    account: dict = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read(path: Path, **options) -> Read:
    found = Read()
    with open_drive(path, **options) as drive:
        for frame in drive:
            found.numbers.append(int(frame.image[0, 0, 0]))
            found.ids.append(frame.frame_id)
            found.times.append(frame.capture_ns)
        found.account, found.notes = drive.account()["cam"], drive.notes
    assert found.account["images"] == sum(found.account[reason] for reason in ("frames", *LEFT_OUT))
    assert found.account["frames"] == len(found.numbers)
    return found
