"""Drives that are videos or folders of images, one per camera."""

import functools
import heapq
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from streamtok.drives.drive import Drive, Item
from streamtok.drives.image_items import hold
from streamtok.drives.topics import Topics, choose_topics
from streamtok.io.image_messages import DamagedFrame, decode_still, is_whole_jpeg
from streamtok.io.images import TimedImage, list_images
from streamtok.io.suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from streamtok.io.video import VideoReader

DEEPEST = 3
ReadItems = Callable[[Drive, Path, str], Iterator[Item]]


class FilesDrive(Drive):
    """A drive with a video file or a folder of images per camera; `read` makes the items of one of them."""

    kind = "files"

    def __init__(self, path: Path, files: dict[str, Path], read: ReadItems, topics: Topics) -> None:
        chosen = choose_topics(path, list(files), {}, topics)
        self._files = {stream: files[name] for name, stream in chosen.items()}
        self._read = read
        super().__init__(path, list(self._files))

    def _items(self, streams: list[str]) -> Iterator[Item]:
        items = [self._read(self, self._files[name], name) for name in streams]
        return heapq.merge(*items, key=lambda item: item.capture_ns)


def open_files(path: Path, topics: Topics) -> Drive:
    """The drive of a folder with a video or a folder of images per camera; ValueError says what was looked for."""
    videos = sorted(file for file in path.iterdir() if file.suffix.lower() in VIDEO_SUFFIXES)
    if videos:
        return FilesDrive(path, {file.stem: file for file in videos}, _video_items, topics)
    if not _image_folders(path, DEEPEST):
        raise ValueError(
            f"{path} holds no drive: looked for .mcap files, a ROS bag, videos ({' '.join(VIDEO_SUFFIXES)}) and "
            f"folders of images ({' '.join(IMAGE_SUFFIXES)})"
        )
    return open_images(path, topics, {})


def has_files(path: Path) -> bool:
    """Whether a folder is a drive of videos or folders of images."""
    return any(file.suffix.lower() in VIDEO_SUFFIXES for file in path.iterdir()) or bool(_image_folders(path, DEEPEST))


def open_images(path: Path, topics: Topics, options: dict[str, Any]) -> Drive:
    """The drive of a folder of images, or of one per camera; `options` tell `list_images` about their times."""
    folders = _image_folders(path, DEEPEST) if path.is_dir() else []
    if not folders:
        raise ValueError(f"{path} holds no folder of images ({' '.join(IMAGE_SUFFIXES)})")
    names = {"cam0": path} if folders == [path] else _names_of(path, folders)
    return FilesDrive(path, names, functools.partial(_image_items, options), topics)


def open_video(path: Path, topics: Topics) -> Drive:
    """A drive of one video file, its camera called cam0."""
    VideoReader(path).close()  # says at once if it is none
    return FilesDrive(path, {"cam0": path}, _video_items, topics)


def _names_of(root: Path, folders: list[Path]) -> dict[str, Path]:
    """{camera name: folder}: the shortest last parts of the paths that differ."""
    for length in range(1, DEEPEST + 1):
        names = {"/".join(folder.relative_to(root).parts[-length:]): folder for folder in folders}
        if len(names) == len(folders):
            return names
    return {str(folder.relative_to(root)): folder for folder in folders}


def _image_folders(path: Path, deepest: int) -> list[Path]:
    """Folders with images in them or in their data/, not deeper than that below `path`."""
    inside = [path, path / "data"] if (path / "data").is_dir() else [path]
    if any(file.suffix.lower() in IMAGE_SUFFIXES for folder in inside for file in folder.iterdir()):
        return [path]
    if deepest == 0:
        return []
    folders = [folder for folder in sorted(path.iterdir()) if folder.is_dir()]
    return [found for folder in folders for found in _image_folders(folder, deepest - 1)]


def _image_items(options: dict[str, Any], drive: Drive, folder: Path, stream: str) -> Iterator[Item]:
    for image in list_images(folder, **options):
        yield Item(stream, image.time_ns, functools.partial(_load_image, image), image.frame_id)


def _load_image(image: TimedImage) -> np.ndarray:
    try:
        data = image.path.read_bytes()
    except OSError as error:
        raise DamagedFrame(f"{image.path.name} cannot be read: {error.strerror}") from error
    if not is_whole_jpeg(data):
        raise DamagedFrame(f"{image.path.name} is a JPEG that is cut off")
    return decode_still(data)


def _video_items(drive: Drive, path: Path, stream: str) -> Iterator[Item]:
    with VideoReader(path, keep_packets=True) as video:
        for picture in video:
            capture_ns = round(picture.seconds * 1_000_000_000)
            yield Item(stream, capture_ns, hold(picture.image), picture.number, picture.packet, picture.codec)
        for counter, text in (("damaged", "damaged"), ("backwards", "out of order in time")):
            if video.counts[counter]:
                drive.counts[stream][counter] += video.counts[counter]
                drive.note(stream, f"{path.name}: {video.counts[counter]} pictures {text} and left out")
