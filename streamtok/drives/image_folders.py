"""Find the folders of images below a folder, and group images whose names hold their recording, camera and time.

LOG__CAMERA__TIME.jpg (nuScenes): a folder holds one camera of many recordings, and its images are split between two
folders (samples, sweeps). LOG_cam0_TIME.jpg (Lyft): one folder holds all cameras; a folder with one is that camera.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from glob import escape
from pathlib import Path
from typing import Any

from streamtok.io.images.folder import Found, find_images
from streamtok.io.suffixes import is_image
from streamtok.names import natural_key

KEPT = 64  # folders: a data set may have thousands
NAMED = re.compile(r"((.+?)(?:__([^_].*)__|_(cam[a-z]*\d*)_))\d{13,19}")

Logs = dict[str, dict[str, list[tuple[Path, str]]]]
"""{recording: {camera: [(folder, pattern of its image names)]}}"""


class ImageFinder:
    """`find_images` with a cache: listing and opening a drive ask for the same folders many times."""

    def __init__(self) -> None:
        self._find = lru_cache(KEPT)(_find_or_error)
        self.left_out: set[Path] = set()  # folders logged as left out; images in data/ belong to its parent

    def __call__(self, folder: Path, **options: Any) -> Found:
        found = self._find(folder, **options)
        if isinstance(found, Found):
            return found
        raise found

    def have_times(self, folder: Path, **options: Any) -> bool:
        """Whether the images of a folder have times."""
        with contextlib.suppress(ValueError, OSError):
            return bool(self(folder, **options))
        return False


def _find_or_error(folder: Path, **options: Any) -> Found | ValueError | OSError:
    try:
        return find_images(folder, **options)
    except (ValueError, OSError) as error:
        return error


class FolderWalk:
    """A walk through the folders below `root` that visits each once, whatever links there are."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._seen = {self._root}

    def folders_in(self, path: Path) -> Iterator[Path]:
        """The folders in `path` that are not visited yet; links to folders below `root` are skipped."""
        for folder in filter(Path.is_dir, sorted(path.iterdir(), key=natural_key)):
            real = folder.resolve()
            if real not in self._seen and not (folder.is_symlink() and real.is_relative_to(self._root)):
                self._seen.add(real)
                yield folder


def list_image_folders(
    path: Path, deepest: int, find: ImageFinder, walk: FolderWalk | None = None, **options: Any
) -> list[Path]:
    """Folders with images in them or in their data/, at most `deepest` levels below `path`, on a new walk by default.

    Folders below one with images count only if its own have no times, as those of a preview.
    """
    walk = walk or FolderWalk(path)
    inside = [folder for folder in _with_data(path) if any(map(is_image, folder.iterdir()))]
    own = [path] if inside else []
    if deepest == 0 or (own and find.have_times(path, **options)):
        return own
    folders = sorted(folder for folder in walk.folders_in(path) if folder not in inside)
    below = (list_image_folders(folder, deepest - 1, find, walk, **options) for folder in folders)
    return [found for each in below for found in each] or own


def _with_data(folder: Path) -> list[Path]:
    """Where the images of a folder may lie: in itself, or in its data/."""
    return [place for place in (folder, folder / "data") if place.is_dir()]


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
    for file in (file for place in _with_data(folder) for file in place.iterdir() if is_image(file)):
        match = NAMED.fullmatch(file.stem)
        if match is None:
            return set()
        found.add((match[2], match[3] or match[4], f"{escape(match[1])}[0-9]*"))
        together = together or not match[3]
    return set() if together and len({camera for _, camera, _ in found}) < 2 else found
