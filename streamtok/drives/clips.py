"""Tell whether the videos in a folder are the cameras of one drive, or clips, each a drive of its own."""

import contextlib
import re
from pathlib import Path

from streamtok.io.video.containers import open_container, read_seconds

MOST_CAMERAS = 64  # on a vehicle
CAMERA = re.compile("(?i:cam(era)?s?)(?![a-z])|(?i:front|rear|back|left|right|wide|narrow|wrist)")  # camA, not campus
DAY = r"(?:19|20)\d\d[-_.]?(?:0[1-9]|1[0-2])[-_.]?(?:0[1-9]|[12]\d|3[01])"
TIME = r"(?:[01]\d|2[0-3])(?:[-_.][0-5]\d(?:[-_.][0-5]\d)?|[0-5]\d[0-5]\d)\d*"
UNIX = r"(?<!(?i:cam|era))(?<!(?i:cam|era)[-_])(?P<near>1[5-9]\d\d)\d{6}(?:\d{3}){0,3}(?!\d)"  # no serial of a camera
UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
RUN = re.compile(
    rf"(?<!\d)(?P<run>{DAY}\D{{0,2}}{TIME}|{UNIX}|{UUID})(?:[-_]\d{{4,6}}(?!\d))?"
)  # and the file's number
CLIP = re.compile(
    r"(episode|file|clip|scene|segment)[_-]?\d+$"
    r"|^[0-9a-f]{8}-[0-9a-f]{8}$"  # of BDD
    r"|^(IMG|VID|MVI|MOV|DSC|DJI|GRMN|GOPR|G[HPX]\d\d)_?\d{4}$"  # of phones and action cameras
)
NO_LENGTH = ("mpegts", "mpeg")  # of these containers: it is that of what is there of a file that is cut off
LENGTHS_DIFFER = 1.1  # times; cameras of a vehicle start and stop together


def why_clips(videos: list[str]) -> str:
    """Why videos in one folder are a drive each, in words; empty if they are the cameras of one drive.

    Their names decide: one camera at several times, names of cameras, or names of episodes. Otherwise their lengths do.
    """
    names = [Path(video).stem for video in videos]
    if len(names) > MOST_CAMERAS:
        return f"more than {MOST_CAMERAS} videos are clips"
    runs = {(RUN.sub(r"\g<near>", name), *RUN.findall(name)) for name in names}  # Unix times near each other
    if len({rest for rest, *_ in runs}) < len(runs) or len(set(names)) < len(names):
        return "videos of one camera at several times, or in several formats, are clips"
    if len(names) < 2 or any(map(CAMERA.search, names)):
        return ""
    if all(map(CLIP.search, names)):
        return "videos named as episodes are clips; names with cam, front, left, ... are cameras"
    seconds = list(filter(None, map(_read_seconds, videos)))
    longer = max(seconds, default=0) > LENGTHS_DIFFER * min(seconds, default=0)
    return "videos of different lengths are clips; names with cam, front, left, ... are cameras" if longer else ""


def _read_seconds(video: str) -> float:
    """A video's duration by its container, s; 0 if unknown."""
    with contextlib.suppress(ValueError, OSError), open_container(video)[0] as container:
        return 0.0 if container.format.name in NO_LENGTH else float(read_seconds(container))
    return 0.0
