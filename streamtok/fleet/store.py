"""Storage that a fleet reads drives from and writes tokens to: folders on this machine, or URLs through fsspec."""

import contextlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streamtok.drives.drive_names import measure_drive
from streamtok.extras import needs_extra
from streamtok.names import is_url

PARTIAL = ".partial"


def open_filesystem(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URL and the path in it; raises ImportError or ValueError that says what is missing."""
    with needs_extra(f"{url}: reading a URL", "dataset"):
        import fsspec
    return fsspec.core.url_to_fs(url)


def measure_size(path: str) -> int:
    """Bytes of a drive's file, or of all files in its folder; raises FileNotFoundError."""
    if is_url(path):
        fs, inner = open_filesystem(path)
        return int(fs.du(inner))
    return measure_drive(path)


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """Yield a local path as it is; download a URL to a temporary folder that lasts as long as the `with` block."""
    if not is_url(path):
        yield Path(path)
        return
    fs, inner = open_filesystem(path)
    with tempfile.TemporaryDirectory(prefix="streamtok-") as folder:
        target = Path(folder) / inner.rstrip("/").rsplit("/", 1)[-1]
        fs.get(inner, str(target), recursive=fs.isdir(inner))
        yield target


class LocalStore:
    """An output folder on this machine. Commits are atomic: they appear complete or not at all."""

    def __init__(self, root: str) -> None:
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def workspace(self, name: str) -> Iterator[Path]:
        """Yield a new folder on the same disk to write in; it is removed at the end unless it was committed."""
        # Only one process works on a drive at a time, so older workspaces were left by processes that were killed.
        for left in self.root.glob(f".{name}.*{PARTIAL}"):
            shutil.rmtree(left, ignore_errors=True)
        folder = self.root / _partial_name(name)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def commit(self, folder: Path, name: str) -> None:
        """Rename a workspace to `name`, replacing an older folder of that name."""
        for file in folder.iterdir():
            with open(file, "rb") as written:
                os.fsync(written.fileno())
        target = self.root / name
        try:
            os.rename(folder, target)
        except OSError:
            # Move the old one out of the way only if the new one exists.
            if not (folder.is_dir() and target.is_dir()):
                raise
            old = self.root / _partial_name(f"{name}.old")
            os.rename(target, old)
            os.rename(folder, target)
            shutil.rmtree(old, ignore_errors=True)

    def read(self, name: str) -> bytes | None:
        """Contents of a file; None if there is none."""
        path = self.root / name
        return path.read_bytes() if path.is_file() else None

    def write(self, name: str, data: bytes) -> None:
        """Replace a file atomically."""
        partial = self.root / _partial_name(name)
        partial.write_bytes(data)
        os.replace(partial, self.root / name)

    def size(self, name: str) -> int | None:
        """Bytes of a file; None if there is none."""
        path = self.root / name
        return path.stat().st_size if path.is_file() else None

    def clean(self) -> None:
        """Remove partial output of processes of this machine that no longer run."""
        for left in self.root.glob(f".*{PARTIAL}"):
            _, host, pid = left.name.removesuffix(PARTIAL).rsplit(".", 2)
            if host == _host() and not _runs(pid):
                shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


class UrlStore:
    """As `LocalStore`, behind a URL. `drive.json` is uploaded last, after the files that it names."""

    def __init__(self, root: str) -> None:
        self._fs, self._root = open_filesystem(root)
        self._root = self._root.rstrip("/")
        self._fs.makedirs(self._root, exist_ok=True)

    @contextlib.contextmanager
    def workspace(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix=f"streamtok-{name}-") as folder:
            yield Path(folder)

    def commit(self, folder: Path, name: str) -> None:
        self._fs.makedirs(f"{self._root}/{name}", exist_ok=True)
        for file in sorted(folder.iterdir(), key=lambda file: (file.suffix == ".json", file.name)):
            self._fs.put_file(str(file), f"{self._root}/{name}/{file.name}")

    def read(self, name: str) -> bytes | None:
        try:
            return self._fs.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        self._fs.pipe_file(f"{self._root}/{name}", data)

    def size(self, name: str) -> int | None:
        try:
            return int(self._fs.size(f"{self._root}/{name}"))
        except FileNotFoundError:
            return None

    def clean(self) -> None:
        """Do nothing: partial output is in temporary folders only."""


Store = LocalStore | UrlStore


def open_store(root: str) -> Store:
    """Open the output folder at a path or URL; it is created if it does not exist."""
    return UrlStore(root) if is_url(root) else LocalStore(root)


def _partial_name(name: str) -> str:
    return f".{name}.{_host()}.{os.getpid()}{PARTIAL}"


def _host() -> str:
    return platform.node().replace(".", "_") or "host"


def _runs(pid: str) -> bool:
    """Whether a process with that id runs on this machine."""
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
