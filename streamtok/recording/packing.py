"""Read files and messages that are packed by zstd, gzip, bzip2, xz or LZ4."""

import bz2
import lzma
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import IO, Any, BinaryIO

from streamtok.names import name_errors

SUFFIXES = (".zstd", ".zst", ".gz", ".bz2", ".xz", ".lz4")
ZSTD_MAGIC, LZ4_MAGIC = b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18"
PIECE_BYTES = 1 << 12  # read at once of a packed file: damage costs the content of one piece
SIZE_UNKNOWN = (1 << 64) - 1  # zstd's content size if its header holds none
UNPACKERS: dict[bytes, Callable[[], Any]] = {
    ZSTD_MAGIC: lambda: import_module("zstandard").ZstdDecompressor().decompressobj(),
    LZ4_MAGIC: lambda: import_module("lz4.frame").LZ4FrameDecompressor(),
    b"\x1f\x8b\x08": partial(zlib.decompressobj, 16 + zlib.MAX_WBITS),
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\0": lzma.LZMADecompressor,
}
"""{magic bytes: the function that makes an unpacker for such a file}"""


def bare_name(path: Path) -> str:
    """The name of a file without the suffix of its packing."""
    return path.stem if path.suffix in SUFFIXES else path.name


def _unpack(stream: BinaryIO) -> Iterator[bytes] | None:
    """The content of a packed file, piece by piece, as `_unpack_by` gives it; None if it is not packed."""
    head = stream.read(max(map(len, UNPACKERS)))
    stream.seek(0)
    return next((_unpack_by(make(), make, stream) for magic, make in UNPACKERS.items() if head.startswith(magic)), None)


def _unpack_by(unpacker: Any, make_unpacker: Callable[[], Any], stream: BinaryIO) -> Iterator[bytes]:
    """The content of a packed file; raises an error of any kind where that is damaged or cut off."""
    for data in iter(partial(stream.read, PIECE_BYTES), b""):
        while data := data.lstrip(b"\0") if unpacker.eof else data:  # several may follow one another, and zeros
            unpacker = make_unpacker() if unpacker.eof else unpacker
            yield unpacker.decompress(data)
            data = unpacker.unused_data or b""
    if not unpacker.eof:
        raise ValueError("it is cut off")


def read_head(path: Path, size: int) -> bytes:
    """The first bytes of a file, or of a packed file's content; empty if that is damaged."""
    with path.open("rb") as stream:
        pieces, head = _unpack(stream) or iter([stream.read(size)]), b""
        with suppress(Exception):  # every library has its own
            while len(head) < size:
                head += next(pieces)
        return head[:size]


def unpacked_size(path: Path) -> int:
    """The unpacked size, in bytes, by the header of a zstd file; 0 if it holds none, and for any other file."""
    import zstandard

    with path.open("rb") as stream, suppress(zstandard.ZstdError):
        size = zstandard.get_frame_parameters(stream.read(PIECE_BYTES)).content_size
        return 0 if size == SIZE_UNKNOWN else size
    return 0


def unpack_if_packed(path: Path, note: Callable[[str], object]) -> tuple[Path, IO[bytes] | None]:
    """The path to read a file at, and if it is packed, the temporary file there, which is deleted when it is closed.

    A file that is cut off is unpacked as far as it goes, with a `note`. ValueError if nothing can be unpacked.
    """
    with path.open("rb") as stream:
        pieces = _unpack(stream)
        if pieces is None:
            return path, None
        unpacked = tempfile.NamedTemporaryFile(prefix="streamtok-", suffix=Path(path.stem).suffix)  # noqa: SIM115
        with name_errors(unpacked.name, f", where {path} is unpacked (TMPDIR says where else)"):
            _write_pieces(pieces, unpacked, note)
    if not unpacked.tell():
        unpacked.close()
        raise ValueError(f"{path}: nothing of it can be unpacked")
    return Path(unpacked.name), unpacked


def _write_pieces(pieces: Iterator[bytes], unpacked: IO[bytes], note: Callable[[str], object]) -> None:
    """Write what can be unpacked, and note what is missing. OSError if the disk fails."""
    try:
        unpacked.writelines(pieces)
    except Exception as error:  # every library has its own
        if isinstance(error, OSError) and error.errno:
            raise
        note(f"its compression is damaged ({error}); what comes before is read")
    finally:
        unpacked.flush()


def unpack_message(data: bytes | memoryview) -> bytes | memoryview:
    """Decompress a message that its recorder compressed by zstd; any other stays as it is. ValueError for damage."""
    if bytes(data[:4]) != ZSTD_MAGIC:
        return data
    try:
        return UNPACKERS[ZSTD_MAGIC]().decompress(bytes(data))
    except Exception as error:  # zstandard has its own
        raise ValueError(f"its compression is damaged: {error}") from error
