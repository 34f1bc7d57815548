"""Drives that are videos or folders of images, one per camera."""

import heapq
import itertools
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from streamtok.drives.clocks import Choice
from streamtok.drives.drive import GUESSED, Drive
from streamtok.drives.image_folders import ImageFinder, Logs, folders_of, list_image_folders, list_logs
from streamtok.drives.image_items import hold
from streamtok.drives.item import Item
from streamtok.drives.other_formats import explain_format, explain_unread_times
from streamtok.drives.topics import Topics, choose_topics
from streamtok.io.images.folder import Found, TimedImage, join_clocks
from streamtok.io.images.stills import is_grey_16, read_pictures
from streamtok.io.suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_video
from streamtok.io.video import VideoReader
from streamtok.io.video.containers import open_container, video_streams
from streamtok.recording.parts import list_files

log = logging.getLogger("streamtok.drive")

DEEPEST = 3
FAR_APART_S = 60  # cameras of one clock start together; by their times alone, one that is ahead only begins later
CAMERA_FOLDER = re.compile(r"(image|cam(era)?)([_-]\w+|\d+)", re.IGNORECASE)  # with data_rect in it: KITTI-360
GREY_16 = "grey pictures of 16 bits, which may be distances, are read as brightness (images:DIR?bits=N if N bits count)"
ReadItems = Callable[[Drive, str], Iterator[Item]]
"""Makes the items of one camera, for a drive and by the camera's name in it."""


class FilesDrive(Drive):
    """A drive whose cameras are videos or folders of images."""

    kind = "files"

    def __init__(
        self, path: Path, cameras: Mapping[str, ReadItems], topics: Topics, found: Mapping[str, Found] | None = None
    ) -> None:
        chosen = choose_topics(path, list(cameras), {}, topics)
        self._cameras = {stream: cameras[name] for name, stream in chosen.items()}
        self._steps = {chosen[name]: each.steps for name, each in (found or {}).items() if name in chosen}
        super().__init__(path, list(self._cameras))

    def find_clock(self, stream: str) -> Choice:
        return Choice(steps=self._steps.get(stream, []))

    def _items(self, streams: list[str]) -> Iterator[Item]:
        items = [self._cameras[name](self, name) for name in streams]
        return heapq.merge(*items, key=lambda item: item.log_ns or item.capture_ns)


def open_files(path: Path, topics: Topics, find: ImageFinder) -> Drive:
    """Open the drive of a folder with a video or a folder of images per camera; ValueError says what was sought."""
    videos = sorted(filter(is_video, path.iterdir()))
    if not videos and not list_image_folders(path, DEEPEST, find):
        for folder in sorted(find.left_out):
            find(folder)  # says what they lack
        notes = "".join(f"; {note}" for note in (*list_files(path).notes, explain_format(path)) if note)
        raise ValueError(
            f"{path} holds no drive: looked for .mcap files, a ROS bag, videos ({' '.join(VIDEO_SUFFIXES)}) and "
            f"folders of images ({' '.join(IMAGE_SUFFIXES)}){notes}"
        )
    if not videos:
        return open_images(path, topics, {}, find)
    drive = FilesDrive(path, {file.stem: partial(_video_items, file, {}) for file in videos}, topics)
    if len(videos) > 1:
        drive.note("", f"{len(videos)} videos are read as the cameras of one drive, each from its own start")
    drive.note("", explain_unread_times(videos[0]))
    return drive


def has_images(path: Path, find: ImageFinder) -> bool:
    """Whether images with times lie in a folder itself, or in its data/; logs images without times."""
    there = bool(list_image_folders(path, 0, find))
    timed = there and find.have_times(path)
    same = {path, path.parent} if path.name == "data" else {path}
    if there and not timed and find.left_out.isdisjoint(same):
        find.left_out.add(path)
        log.warning("path=%s event=left_out reason='its images have no times'", path)
    return timed


def find_logs(path: Path, find: ImageFinder) -> Logs:
    """The recordings named by images in a folder or below it; empty if there is one, and other timed images besides."""
    folders = list_image_folders(path, DEEPEST, find)
    logs = list_logs(folders)
    others = [folder for folder in folders if folder not in folders_of(logs)]
    return {} if len(logs) == 1 and any(map(find.have_times, others)) else logs


def belong_together(folders: list[Path], find: ImageFinder) -> bool:
    """Whether folders of images are the cameras of one drive: their names differ, and their times overlap.

    False if one of them is another kind of drive. Cameras without times are not compared.
    """
    cameras: set[Path] = set()
    spans: list[tuple[int, int]] = []
    for folder in folders:
        others = bool(list_files(folder).paths) or any(map(is_video, folder.iterdir()))
        found = [] if others else list_image_folders(folder, DEEPEST - 1, find)
        is_camera = CAMERA_FOLDER.fullmatch(folder.name) and all(each.name.startswith("data") for each in found)
        names = {each.relative_to(folder.parent if is_camera or folder in found else folder) for each in found}
        timed, _ = _list_timed({str(each): each for each in found}, find)
        if not timed or names & cameras:  # none with times: those of this drive lie deeper
            return False
        cameras |= names
        times = [[image.time_ns for image in found.images] for found in timed.values()]
        spans += [(min(each), max(each)) for each in times]
    return len(spans) < 2 or any(max(a[0], b[0]) <= min(a[1], b[1]) for a, b in itertools.combinations(spans, 2))


def open_images(path: Path, topics: Topics, options: dict[str, Any], find: ImageFinder) -> Drive:
    """Open the drive of a folder of images, or of one per camera; `options` are those of `list_images`.

    Folders without times are left out and noted; ValueError if none has times.
    """
    folders = list_image_folders(path, DEEPEST, find, **options) if path.is_dir() else []
    if not folders:
        raise ValueError(f"{path} holds no folder of images ({' '.join(IMAGE_SUFFIXES)})")
    if "log" in options or len(find_logs(path, find)) == 1:
        return _open_log(path, topics, options, list_logs(folders), find)
    names = {"cam0": path} if folders == [path] else _names_of(path, folders)
    timed, faults = _list_timed(names, find, **options)
    if not timed:
        raise next(iter(faults.values()))
    drive = _images_drive(path, timed, topics)
    for fault in faults.values():
        drive.note("", f"left out: {fault}")
    if len(timed) > 1:
        begins = [found.images[0].time_ns for found in timed.values()]
        apart_s = (max(begins) - min(begins)) / 1e9
        far = f", which begin {apart_s:.0f} s apart" if apart_s >= FAR_APART_S else ""
        drive.note("", f"{len(timed)} folders of images are read as the cameras of one drive, by their times{far}")
    return drive


def _open_log(path: Path, topics: Topics, options: dict[str, Any], logs: Logs, find: ImageFinder) -> Drive:
    """Open one of the recordings that images name, with the cameras that they name."""
    name = options.get("log", next(iter(logs), None))
    if name not in logs:
        raise ValueError(f"{path} has no images of the recording {name!r}: those named are {', '.join(list(logs)[:5])}")
    timed, folders = {}, set[Path]()
    for camera, places in logs[name].items():
        found = [find(folder, **options | {"log": "", "names": names}) for folder, names in places]
        images = sorted((image for each in found for image in each.images), key=lambda image: image.time_ns)
        timed[camera] = replace(found[0], images=images)
        folders |= {folder for folder, _ in places}
    if len(timed) == 1 and folders == {path}:
        timed = {"cam0": timed.popitem()[1]}
    drive = _images_drive(path, timed, topics)
    if len(folders) > 1 or len(timed) > 1:
        drive.note("", f"images of {len(folders)} folders are {len(timed)} cameras of the recording they name: {name}")
    return drive


def _images_drive(path: Path, timed: Mapping[str, Found], topics: Topics) -> FilesDrive:
    return FilesDrive(path, {name: partial(_image_items, found) for name, found in timed.items()}, topics, timed)


def open_picture(path: Path, topics: Topics, options: dict[str, Any]) -> Drive:
    """Open one image file as a drive with the camera cam0: one picture, or those of an animation."""
    return FilesDrive(path, {"cam0": partial(_picture_items, path, options)}, topics)


def open_video(path: Path, topics: Topics, options: dict[str, Any]) -> Drive:
    """Open one video file as a drive: a camera per video stream (cam0, cam1, ...), or for the one in `options`."""
    try:
        container, _ = open_container(str(path), stream=options.get("stream", 0))  # raises at once if it is no video
    except ValueError as error:
        raise ValueError("; ".join(filter(None, (str(error), explain_format(path))))) from error
    with container:
        count = len(video_streams(container))
    chosen = [options.get("stream")] if "stream" in options or count == 1 else range(count)
    cameras = {f"cam{n}": partial(_video_items, path, options | {"stream": number}) for n, number in enumerate(chosen)}
    drive = FilesDrive(path, cameras, topics)
    drive.note("", explain_unread_times(path))
    return drive


def _list_timed(
    folders: dict[str, Path], find: ImageFinder, **options: Any
) -> tuple[dict[str, Found], dict[str, ValueError]]:
    """The images of folders, by name, and the errors of folders whose images cannot be listed."""
    timed, faults = {}, {}
    for name, folder in folders.items():
        try:
            timed[name] = find(folder, **options)
        except ValueError as error:
            faults[name] = error
    return timed, faults


def _names_of(root: Path, folders: list[Path]) -> dict[str, Path]:
    """{camera name: folder}; names are the shortest ends of the paths that all differ."""
    for length in range(1, DEEPEST + 1):
        names = {"/".join(folder.relative_to(root).parts[-length:]): folder for folder in folders}
        if len(names) == len(folders):
            return names
    return {str(folder.relative_to(root)): folder for folder in folders}


def _image_items(found: Found, drive: Drive, stream: str) -> Iterator[Item]:
    """Items timed by the folder's own clock; `log_ns`, by which cameras are merged, rises even if that is set back."""
    if found.untimed:
        drive.counts[stream].update(untimed=len(found.untimed), late=len(found.untimed))
        first = found.untimed[0].name
        drive.note(stream, f"{len(found.untimed)} images without a time are left out, the first {first}")
    if guessed := sum(image.guessed for image in found.images):
        drive.counts[stream]["guessed"] += guessed
        drive.note(stream, GUESSED)
    if any(image.bits is None and is_grey_16(image.path) for image in found.images[:1]):
        drive.note(stream, GREY_16)
    for image, joined in zip(found.images, join_clocks(found.images, drive.path), strict=True):
        number = image.frame_id if image.numbered else None
        yield Item(stream, image.time_ns, partial(_load_image, image), number, log_ns=joined.time_ns)


def _load_image(image: TimedImage) -> np.ndarray:
    return image.load()[0]


def _picture_items(path: Path, options: dict[str, Any], drive: Drive, stream: str) -> Iterator[Item]:
    for number, (time_ns, image) in enumerate(read_pictures(path, **options)):
        yield Item(stream, time_ns, hold(image), number)


def _video_items(path: Path, options: dict[str, Any], drive: Drive, stream: str) -> Iterator[Item]:
    drive.sizes.setdefault(path, path.stat().st_size)
    return drive.read_file(path.name, path, _decode_video(path, options, drive, stream))


def _decode_video(path: Path, options: dict[str, Any], drive: Drive, stream: str) -> Iterator[Item]:
    with VideoReader(path, **options, keep_packets=True) as video:
        for picture in video:
            capture_ns = round(picture.seconds * 1_000_000_000)
            yield Item(stream, capture_ns, hold(picture.image), picture.number, picture.packet, picture.codec)
        for counter, text in (("damaged", "damaged"), ("backwards", "out of order in time")):
            if video.counts[counter]:
                drive.counts[stream][counter] += video.counts[counter]
                drive.note(stream, f"{path.name}: {video.counts[counter]} pictures {text} and left out")
