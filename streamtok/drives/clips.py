"""Tell whether the videos in a folder are the cameras of one drive, or clips, each a drive of its own."""

import contextlib
import re
from pathlib import Path

from streamtok.io.video.containers import open_container

MOST_CAMERAS = 64  # on a vehicle
CAMERA = re.compile("cam|front|rear|back|left|right|wide|narrow|wrist", re.IGNORECASE)
DATE = re.compile(r"\d{8}\D?\d{6}|\d{4}(-\d\d){2}\D\d\d(-\d\d){1,2}")
ID = re.compile(r"(?<!\d)0\d{2,}$|\b(?=\d*[a-f])(?=[a-f]*\d)[0-9a-f]{8}\b")  # episode_000012, cabc30fc-e7726578
LENGTHS_DIFFER = 1.1  # times; cameras of a vehicle start and stop together


def why_clips(videos: list[str]) -> str:
    """Why videos in one folder are a drive each, in words; empty if they are the cameras of one drive.

    Their names decide: one camera at several times, names of cameras, or zero-padded numbers and ids. Otherwise their
    lengths do.
    """
    names = [Path(video).stem for video in videos]
    if len(names) > MOST_CAMERAS:
        return f"more than {MOST_CAMERAS} videos are clips"
    if len({DATE.sub("", name) for name in names}) < len(names):
        return "videos of one camera at several times are clips"
    if len(names) < 2 or any(map(CAMERA.search, names)):
        return ""
    if any(map(ID.search, names)):
        return "videos named by numbers or ids are clips; names with cam, front, left, ... are cameras"
    seconds = list(filter(None, map(_read_seconds, videos)))
    longer = max(seconds, default=0) > LENGTHS_DIFFER * min(seconds, default=0)
    return "videos of different lengths are clips; names with cam, front, left, ... are cameras" if longer else ""


def _read_seconds(video: str) -> float:
    """A video's duration by its container, s; 0 if unknown."""
    with contextlib.suppress(ValueError, OSError), open_container(video)[0] as container:
        return (container.duration or 0) / 1e6
    return 0.0
