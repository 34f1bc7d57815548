"""How names, sizes and devices are written, wherever they are read: flags, configuration files, sources, messages."""

import contextlib
import difflib
import errno
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

NAME = r"[A-Za-z0-9_-]{1,64}"  # of a stream, a node, a reader's keys
ENDPOINT = re.compile(r"tcp://(?:[^:/\s]+|\[[0-9A-Fa-f:.%\w]+\]):([0-9]{1,5}|\*|!)|(?:ipc|inproc)://.+", re.DOTALL)
NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


def as_utf8(text: str) -> str:
    """Text that every reader takes: bytes of a file's name that are no UTF-8 become question marks."""
    return text.encode(errors="replace").decode()


def check_stream_name(name: str) -> str:
    """A stream's name that may become a part of a path, as it is; ValueError for any other.

    Names in files and messages are their writer's choice: everywhere that one becomes a path, it goes through here.
    """
    if not re.fullmatch(NAME, name):
        raise ValueError(f"stream name {name[:80]!r}: expected 1 to 64 letters, digits, _ or -")
    return name


def parse_size(text: str) -> tuple[int, int]:
    """ "256x448" as (height, width), the order in which tensors are written."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match or min(int(match[1]), int(match[2])) < 1:
        raise ValueError("expected HEIGHTxWIDTH in pixels, such as 256x448")
    return int(match[1]), int(match[2])


def parse_device(text: str) -> str:
    """The name of a device, as it is; ValueError says what names there are."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise ValueError("expected auto, cpu, cuda or cuda:N")
    return text


def parse_endpoint(text: str) -> str:
    """A ZeroMQ endpoint, as it is; ValueError says what one looks like."""
    match = ENDPOINT.fullmatch(text)
    if match is None:
        raise ValueError("expected tcp://HOST:PORT or ipc://PATH")
    if (match[1] or "*").isdecimal() and int(match[1]) > 65535:  # libzmq would take it modulo 65536
        raise ValueError("expected a port up to 65535")
    return text


def is_url(text: str) -> bool:
    """Whether a name is a URL ("rtsp://camera/1", "s3://bucket/drive.mcap"), not a path."""
    return "://" in text


def is_camera_path(text: str) -> bool:
    """Whether a path is that of a camera of this machine: any in /dev, except shared memory and pipes."""
    return text.startswith("/dev/") and not text.startswith(("/dev/shm/", "/dev/fd/", "/dev/stdin"))


def natural_key(path: Path) -> list[tuple[int, str]]:
    """Sorts frame_2 before frame_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def nearest(word: str, allowed: Iterable[str]) -> str:
    """`did you mean ...?` where something is near, and what is allowed."""
    allowed = list(allowed)
    near = difflib.get_close_matches(word, allowed, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}allowed: {', '.join(allowed)}"


def check_replaceable(path: Path) -> None:
    """Raise FileExistsError for a device, pipe or folder: a complete file is moved to `path`, and would replace it."""
    if path.exists() and not path.is_file():
        raise FileExistsError(f"{path} is a device, a pipe or a folder, which no file may replace: give another name")


@contextlib.contextmanager
def name_errors(path: object, hint: str = "") -> Iterator[None]:
    """Let errors of a full disk or a read-only folder name this file, which is written, and say what to do."""
    try:
        yield
    except OSError as error:
        of_another = error.filename is not None and not str(error.filename).startswith(str(path))
        if of_another or error.errno not in NOT_WRITABLE:
            raise
        raise OSError(error.errno, f"{error.strerror}{hint}", str(path)) from error
