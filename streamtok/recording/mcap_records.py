"""The bytes of MCAP files: records, messages and chunks, as https://mcap.dev/spec lays them out."""

import contextlib
import struct
import zlib
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

MAGIC = b"\x89MCAP0\r\n"
RECORD = struct.Struct("<BQ")
CHUNK_HEAD = struct.Struct("<QQQI")
MESSAGE_HEAD = struct.Struct("<HIQQ")
OP_HEADER, OP_FOOTER, OP_SCHEMA, OP_CHANNEL, OP_MESSAGE, OP_CHUNK, OP_MESSAGE_INDEX = 1, 2, 3, 4, 5, 6, 7
OP_ATTACHMENT, OP_METADATA, LAST_OPCODE = 9, 12, 15
LARGEST_RECORD = 4 << 30
UNPACK_ERRORS = (ValueError, RuntimeError, struct.error, OverflowError, MemoryError)  # of a damaged chunk


class RawMessage(NamedTuple):
    """One message as stored; times in ns of the file's clock, `data` a view of the chunk it came from."""

    channel_id: int
    sequence: int
    log_time: int
    publish_time: int
    data: memoryview


class Record(NamedTuple):
    """One record: what it is, where it begins in the bytes it was read from, and what is in it."""

    opcode: int
    offset: int
    contents: memoryview


@dataclass(frozen=True, slots=True)
class Chunk:
    """Where one chunk lies: `offset` of its record, `length` of what is there of it, its first and last log times.

    `index` is {channel id: offset of the record that lists its messages}, empty if nothing lists them.
    """

    offset: int
    length: int
    start_ns: int
    end_ns: int
    whole: bool = True
    index: dict[int, int] = field(default_factory=dict, hash=False, compare=False)


def read_message(record: memoryview) -> RawMessage:
    """The message that a record holds."""
    channel_id, sequence, log_time, publish_time = MESSAGE_HEAD.unpack_from(record)
    return RawMessage(channel_id, sequence, log_time, publish_time, record[MESSAGE_HEAD.size :])


def record_at(data: memoryview, offset: int) -> Record:
    """The record that begins at `offset`; ValueError if it runs over the end."""
    if offset + RECORD.size > len(data):
        raise ValueError("its records run over its end")
    opcode, length = RECORD.unpack_from(data, offset)
    begin = offset + RECORD.size
    if begin + length > len(data):
        raise ValueError("its records run over its end")
    return Record(opcode, offset, data[begin : begin + length])


def split_records(data: memoryview, lenient: bool = False) -> list[Record]:
    """Records that follow one another; one that is cut off at the end is an error unless `lenient`."""
    records: list[Record] = []
    at = 0
    with contextlib.suppress(ValueError) if lenient else contextlib.nullcontext():
        while at + RECORD.size <= len(data):
            records.append(record_at(data, at))
            at += RECORD.size + len(records[-1].contents)
    return records


def read_chunk(stream: BinaryIO, chunk: Chunk) -> memoryview:
    """The unpacked records of a chunk, of one that is cut off as much as there is; raises `UNPACK_ERRORS`."""
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
    whole = chunk.whole or len(packed) == length  # or the length around it is what was damaged
    contents = decompress(codec, packed, size, not whole)
    if whole and crc and zlib.crc32(contents) != crc:
        raise ValueError("its checksum is wrong")
    return memoryview(contents)


def decompress(codec: str, data: memoryview, size: int, partial: bool = False) -> bytes | memoryview:
    """Contents of a chunk of `size` bytes compressed by `codec`; with `partial`, as much as the data gives."""
    if codec == "":
        return data
    if size > LARGEST_RECORD:
        raise ValueError(f"it claims to hold {size} bytes")
    if codec == "zstd":
        import zstandard

        try:
            return zstandard.ZstdDecompressor().decompressobj().decompress(bytes(data))
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from error
    if codec == "lz4":
        import lz4.frame

        return lz4.frame.LZ4FrameDecompressor().decompress(bytes(data), -1 if partial else size)
    raise ValueError(f"its compression {codec!r} is not known; known are zstd and lz4")
