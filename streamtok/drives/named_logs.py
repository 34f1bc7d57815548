"""Images whose names say their recording, their camera and their time, as those of nuScenes: LOG__CAMERA__TIME.jpg.

There one folder holds a camera of many recordings, and another one the pictures between (samples, sweeps).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from streamtok.io.suffixes import is_image

NAME = re.compile(r"(.+?)__([^_].*)__\d{13,19}")

Logs = dict[str, dict[str, list[Path]]]
"""{recording: {camera: its folders}}"""


def list_logs(folders: Iterable[Path]) -> Logs:
    """The recordings that images name, in those folders of which all images are named so."""
    logs: Logs = {}
    for folder in folders:
        for log, camera in sorted(_names_in(folder)):
            logs.setdefault(log, {}).setdefault(camera, []).append(folder)
    return logs


def folders_of(logs: Logs) -> set[Path]:
    """The folders with images of these recordings."""
    return {folder for cameras in logs.values() for folders in cameras.values() for folder in folders}


def _names_in(folder: Path) -> set[tuple[str, str]]:
    """(recording, camera) of the images of a folder or of its data/; empty where not all are named so."""
    found = set()
    inside = [folder, folder / "data"] if (folder / "data").is_dir() else [folder]
    for file in (file for place in inside for file in place.iterdir() if is_image(file)):
        match = NAME.fullmatch(file.stem)
        if match is None:
            return set()
        found.add((match[1], match[2]))
    return found
