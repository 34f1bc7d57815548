"""Read files and messages that are packed by zstd, gzip, bzip2, xz or LZ4."""

import bz2
import gzip
import lzma
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any, BinaryIO

from streamtok.names import name_errors

SUFFIXES = (".zstd", ".zst", ".gz", ".bz2", ".xz", ".lz4")
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
COPY_BYTES = 1 << 20
SIZE_UNKNOWN = (1 << 64) - 1  # zstd's content size if its header holds none


READERS: dict[bytes, Callable[[Any], Any]] = {
    ZSTD_MAGIC: lambda file: import_module("zstandard").ZstdDecompressor().stream_reader(file, read_across_frames=True),
    b"\x04\x22\x4d\x18": lambda file: import_module("lz4.frame").open(file),
    b"\x1f\x8b\x08": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
"""{magic bytes: the function that opens such a file for reading}"""


def bare_name(path: Path) -> str:
    """The name of a file without the suffix of its packing."""
    return path.stem if path.suffix in SUFFIXES else path.name


def _open_packed(stream: BinaryIO) -> Any:
    """A reader of a packed file's content; None if it is not packed."""
    head = stream.read(max(map(len, READERS)))
    stream.seek(0)
    return next((read(stream) for magic, read in READERS.items() if head.startswith(magic)), None)


def read_head(path: Path, size: int) -> bytes:
    """The first bytes of a file, or of a packed file's content; empty if that is damaged."""
    with path.open("rb") as stream:
        packed = _open_packed(stream)
        try:
            return (packed or stream).read(size)
        except Exception:  # every library has its own
            return b""


def unpacked_size(path: Path) -> int:
    """The unpacked size, in bytes, by the header of a zstd file; 0 if it holds none, and for any other file."""
    import zstandard

    with path.open("rb") as stream, suppress(zstandard.ZstdError):
        size = zstandard.get_frame_parameters(stream.read(COPY_BYTES)).content_size
        return 0 if size == SIZE_UNKNOWN else size
    return 0


def unpack_if_packed(path: Path) -> tuple[IO[bytes] | None, str]:
    """Unpack a packed file into a temporary one: (file, what is missing of it, in words); (None, "") for any other.

    The temporary file is deleted when it is closed. A file that is cut off is unpacked as far as it goes.

    Raises:
        ValueError: nothing can be unpacked.
    """
    with path.open("rb") as stream:
        packed = _open_packed(stream)
        if packed is None:
            return None, ""
        unpacked = tempfile.NamedTemporaryFile(prefix="streamtok-", suffix=Path(path.stem).suffix)  # noqa: SIM115
        reason = ""
        with name_errors(unpacked.name, f", where {path} is unpacked (TMPDIR says where else)"):
            try:
                shutil.copyfileobj(packed, unpacked, COPY_BYTES)
            except Exception as error:  # every library has its own
                if isinstance(error, OSError) and error.errno:
                    raise
                reason = f"its compression is damaged ({error}); what comes before is read"
            unpacked.flush()
    if not unpacked.tell():
        unpacked.close()
        raise ValueError(f"{path}: nothing of it can be unpacked")
    return unpacked, reason


def unpack_message(data: bytes | memoryview) -> bytes | memoryview:
    """Decompress a message that its recorder compressed by zstd; any other stays as it is. ValueError for damage."""
    if bytes(data[:4]) != ZSTD_MAGIC:
        return data
    import zstandard

    try:
        return zstandard.ZstdDecompressor().decompressobj().decompress(bytes(data))
    except zstandard.ZstdError as error:
        raise ValueError(f"its compression is damaged: {error}") from error
