"""Parse the bytes of MCAP files: records, messages and chunks (https://mcap.dev/spec)."""

import contextlib
import struct
import zlib
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

import numpy as np

from streamtok.recording.packing import LZ4_MAGIC, UNPACKERS, ZSTD_MAGIC

MAGIC = b"\x89MCAP0\r\n"
RECORD = struct.Struct("<BQ")
CHUNK_HEAD = struct.Struct("<QQQI")
MESSAGE_HEAD = struct.Struct("<HIQQ")
INDEX_HEAD = struct.Struct("<BQHI")
INDEX_ENTRY = np.dtype([("time", "<u8"), ("offset", "<u8")])
OP_HEADER, OP_FOOTER, OP_SCHEMA, OP_CHANNEL, OP_MESSAGE, OP_CHUNK, OP_MESSAGE_INDEX = 1, 2, 3, 4, 5, 6, 7
OP_ATTACHMENT, OP_STATISTICS, OP_METADATA, OP_DATA_END, LAST_OPCODE = 9, 11, 12, 15, 15
CODECS = {"zstd": ZSTD_MAGIC, "lz4": LZ4_MAGIC}
LARGEST_RECORD = 4 << 30
PIECE_BYTES = 1 << 14  # unpacked at once: what hostile bytes cost before their size is looked at
UNPACK_ERRORS = (ValueError, RuntimeError, struct.error, OverflowError, MemoryError)  # of a damaged chunk


class RawMessage(NamedTuple):
    """One message as stored; times in ns of the file's clock, `data` a view of its chunk.

    If it is `unreadable`, only its channel and log time are known.
    """

    channel_id: int
    sequence: int
    log_time: int
    publish_time: int
    data: memoryview
    unreadable: bool = False


class Record(NamedTuple):
    """One record: its opcode, its offset in the data that it was read from, and its content."""

    opcode: int
    offset: int
    contents: memoryview


@dataclass(frozen=True, slots=True)
class Chunk:
    """Where one chunk lies: `offset` of its record, `length` of it in the file, its first and last log times, ns.

    `whole`: it is not cut off. `index` is {channel id: offset of the message index record}, empty without one.
    """

    offset: int
    length: int
    start_ns: int
    end_ns: int
    whole: bool = True
    index: dict[int, int] = field(default_factory=dict, hash=False, compare=False)

    def describe(self, error: Exception) -> str:
        """The note that the chunk is damaged."""
        return f"the chunk at byte {self.offset} cannot be read ({error}); its messages are left out"


def begins_with_header(stream: BinaryIO) -> bool:
    """Whether a header record follows the magic bytes, which may be damaged."""
    stream.seek(len(MAGIC))
    opcode, length = RECORD.unpack(stream.read(RECORD.size).ljust(RECORD.size, b"\0"))
    return opcode == OP_HEADER and 8 <= length < 1 << 16


def read_message(record: memoryview) -> RawMessage:
    """Parse the content of a message record."""
    channel_id, sequence, log_time, publish_time = MESSAGE_HEAD.unpack_from(record)
    return RawMessage(channel_id, sequence, log_time, publish_time, record[MESSAGE_HEAD.size :])


def read_message_index(stream: BinaryIO, offset: int, channel_id: int) -> np.ndarray:
    """Read the message index record at `offset`: (n,) of `INDEX_ENTRY`. ValueError if it is not the channel's."""
    stream.seek(offset)
    head = stream.read(INDEX_HEAD.size)
    opcode, length, channel, size = INDEX_HEAD.unpack(head) if len(head) == INDEX_HEAD.size else (0, 0, 0, 0)
    if (opcode, channel, length) != (OP_MESSAGE_INDEX, channel_id, size + 6) or size % INDEX_ENTRY.itemsize:
        raise ValueError(f"the message index at byte {offset} is damaged")
    return np.frombuffer(stream.read(size), INDEX_ENTRY)


def record_at(data: memoryview, offset: int) -> Record:
    """The record that begins at `offset`; ValueError if it runs over the end."""
    begin = offset + RECORD.size
    opcode, length = RECORD.unpack_from(data, offset) if begin <= len(data) else (0, 0)
    if begin + length > len(data):
        raise ValueError("its records run over its end")
    return Record(opcode, offset, data[begin : begin + length])


def split_records(data: memoryview, lenient: bool = False) -> list[Record]:
    """Split data into its records; ValueError if the last one is cut off, unless `lenient`."""
    records: list[Record] = []
    at = 0
    with contextlib.suppress(ValueError) if lenient else contextlib.nullcontext():
        while at + RECORD.size <= len(data):
            records.append(record_at(data, at))
            at += RECORD.size + len(records[-1].contents)
    return records


def read_chunk(stream: BinaryIO, chunk: Chunk, checked: bool = True) -> memoryview:
    """The unpacked records of a chunk, or as much as there is if it is cut off; raises `UNPACK_ERRORS`.

    If not `checked`, as much as can be unpacked of a damaged one.
    """
    stream.seek(chunk.offset + RECORD.size)
    data = memoryview(stream.read(chunk.length - RECORD.size))
    if len(data) < CHUNK_HEAD.size + 4:
        raise ValueError("only its first bytes are there")
    _, _, size, crc = CHUNK_HEAD.unpack_from(data)
    name_end = CHUNK_HEAD.size + 4 + struct.unpack_from("<I", data, CHUNK_HEAD.size)[0]
    if name_end + 8 > len(data):
        raise ValueError("its header is damaged")
    codec = bytes(data[CHUNK_HEAD.size + 4 : name_end]).decode("ascii", "replace")
    length = struct.unpack_from("<Q", data, name_end)[0]
    packed = data[name_end + 8 :][:length]
    whole = chunk.whole or len(packed) == length  # then only the length of the record is damaged
    contents = decompress_chunk(codec, packed, size, not (whole and checked))
    if whole and checked and crc and zlib.crc32(contents) != crc:
        raise ValueError("its checksum is wrong")
    if whole and checked and not crc and (len(contents) != size or name_end + 8 + length != len(data)):
        raise ValueError("its lengths do not agree")
    return memoryview(contents)


def unpack_damaged(stream: BinaryIO, chunk: Chunk) -> memoryview:
    """As much as can be unpacked of a damaged chunk, unchecked."""
    with contextlib.suppress(*UNPACK_ERRORS):
        return read_chunk(stream, chunk, checked=False)
    return memoryview(b"")


def decompress_chunk(codec: str, data: memoryview, size: int, partial: bool = False) -> bytes | memoryview:
    """Decompress a chunk to `size` bytes by `codec`; with `partial`, as much as the data gives."""
    if codec == "":
        return data
    if size > LARGEST_RECORD:
        raise ValueError(f"it claims to hold {size} bytes")
    if codec not in CODECS:
        raise ValueError(f"its compression {codec!r} is not known; known are {' and '.join(CODECS)}")
    if partial:
        return _unpack_partly(codec, data)
    try:
        contents = UNPACK_AT_MOST[codec](data, size + 1)
    except MemoryError:
        raise ValueError(f"there is no memory for the {size} bytes that it claims to hold") from None
    except Exception as error:  # zstandard and lz4 have their own
        raise ValueError(str(error)) from error
    if len(contents) > size:
        raise ValueError(f"it holds more than the {size} bytes that it claims")
    return contents


def _unpack_partly(codec: str, data: memoryview) -> bytes:
    """As much as can be decompressed, piece by piece, up to about `LARGEST_RECORD` bytes."""
    unpack = UNPACKERS[CODECS[codec]]().decompress
    left, unpacked = LARGEST_RECORD, []
    with contextlib.suppress(Exception):
        for at in range(0, len(data), PIECE_BYTES):
            unpacked.append(unpack(bytes(data[at : at + PIECE_BYTES])))
            left -= len(unpacked[-1])
            if left < 0:
                break
    return b"".join(unpacked)


def _unpack_zstd(data: memoryview, most: int) -> bytes:
    import zstandard

    return zstandard.ZstdDecompressor().stream_reader(data).read(most)


def _unpack_lz4(data: memoryview, most: int) -> bytes:
    import lz4.frame

    return lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=most)


UNPACK_AT_MOST = {"zstd": _unpack_zstd, "lz4": _unpack_lz4}
"""{codec: the function that unpacks at most so many bytes, however many there are}"""
