"""Group images whose names hold their recording, their camera and their time.

LOG__CAMERA__TIME.jpg (nuScenes): a folder holds one camera of many recordings, and its images are split between two
folders (samples, sweeps). LOG_cam0_TIME.jpg (Lyft): one folder holds all cameras; a folder with one is that camera.
"""

import re
from collections.abc import Iterable
from glob import escape
from pathlib import Path

from streamtok.io.suffixes import is_image

NAME = re.compile(r"((.+?)(?:__([^_].*)__|_(cam[a-z]*\d*)_))\d{13,19}")

Logs = dict[str, dict[str, list[tuple[Path, str]]]]
"""{recording: {camera: [(folder, pattern of its image names)]}}"""


def list_logs(folders: Iterable[Path]) -> Logs:
    """The recordings that images name, in folders where all images are named like that."""
    logs: Logs = {}
    for folder in folders:
        for log, camera, names in sorted(_names_in(folder)):
            logs.setdefault(log, {}).setdefault(camera, []).append((folder, names))
    return logs


def folders_of(logs: Logs) -> set[Path]:
    """The folders with images of these recordings."""
    return {folder for cameras in logs.values() for places in cameras.values() for folder, _ in places}


def _names_in(folder: Path) -> set[tuple[str, str, str]]:
    """(recording, camera, pattern of names) of images in a folder or its data/; empty if one is named otherwise."""
    found, together = set(), False
    inside = [folder, folder / "data"] if (folder / "data").is_dir() else [folder]
    for file in (file for place in inside for file in place.iterdir() if is_image(file)):
        match = NAME.fullmatch(file.stem)
        if match is None:
            return set()
        found.add((match[2], match[3] or match[4], f"{escape(match[1])}[0-9]*"))
        together = together or not match[3]
    return set() if together and len({camera for _, camera, _ in found}) < 2 else found
