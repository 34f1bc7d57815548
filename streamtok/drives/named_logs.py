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
    """The recordings in folders of images; empty where not all images of a folder are named so."""
    logs: Logs = {}
    for folder in folders:
        for log, camera in sorted(_names_in(folder)):
            logs.setdefault(log, {}).setdefault(camera, []).append(folder)
    return logs


def _names_in(folder: Path) -> set[tuple[str, str]]:
    """(recording, camera) of the images of a folder."""
    found = set()
    for file in filter(is_image, folder.iterdir()):
        match = NAME.fullmatch(file.stem)
        if match is None:
            return set()
        found.add((match[1], match[2]))
    return found
