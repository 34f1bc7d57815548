"""Find the folders of images below a folder, and cache what they hold."""

import contextlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from streamtok.io.images.folder import Found, find_images
from streamtok.io.suffixes import is_image
from streamtok.names import natural_key

KEPT = 64  # folders: a data set may have thousands


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


def list_image_folders(path: Path, deepest: int, find: ImageFinder, **options: Any) -> list[Path]:
    """Folders with images in them or in their data/, at most `deepest` levels below `path`.

    Folders below one with images count only if its own have no times, as those of a preview.
    """
    return _list_below(path, deepest, FolderWalk(path), lambda folder: find.have_times(folder, **options))


def _list_below(path: Path, deepest: int, walk: FolderWalk, have_times: Callable[[Path], bool]) -> list[Path]:
    inside = [path, path / "data"] if (path / "data").is_dir() else [path]
    inside = [folder for folder in inside if any(map(is_image, folder.iterdir()))]
    own = [path] if inside else []
    if deepest == 0 or (own and have_times(path)):
        return own
    folders = sorted(folder for folder in walk.folders_in(path) if folder not in inside)
    return [found for folder in folders for found in _list_below(folder, deepest - 1, walk, have_times)] or own
