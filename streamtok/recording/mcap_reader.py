"""MCAP files read so that damage costs only what it touches.

An intact file is read by its index, in order of log time. A file that was cut off has no index: its chunks are found
by walking over the records, and the part of the last chunk that is there is read too. A chunk that does not check is
left out and named in `damage`; everything else is still read.
"""

from __future__ import annotations

import heapq
import io
import itertools
import os
import struct
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

MAGIC = b"\x89MCAP0\r\n"
RECORD = struct.Struct("<BQ")
CHUNK_HEAD = struct.Struct("<QQQI")
MESSAGE_HEAD = struct.Struct("<HIQQ")
OP_HEADER, OP_FOOTER, OP_SCHEMA, OP_CHANNEL, OP_MESSAGE, OP_CHUNK, OP_MESSAGE_INDEX = 1, 2, 3, 4, 5, 6, 7
OP_METADATA = 12
FOOTER_BYTES = RECORD.size + 20 + len(MAGIC)
LARGEST_RECORD = 4 << 30


class RawMessage(NamedTuple):
    """One message as stored; times in ns of the file's clock, `data` a view of the chunk it came from."""

    channel_id: int
    sequence: int
    log_time: int
    publish_time: int
    data: memoryview


@dataclass(frozen=True)
class Chunk:
    """Where one chunk lies: `offset` of its record, `length` of what is there of it, and its first and last times."""

    offset: int
    length: int
    start: int
    end: int
    whole: bool = True
    channel_ids: frozenset[int] = frozenset()


@dataclass
class _Found:
    """What walking over the records of a file without an index found."""

    chunks: list[Chunk] = field(default_factory=list)
    loose: bool = False  # messages outside chunks
    footer: bool = False
    broken: str = ""


class McapFile:
    """One MCAP file, whole or not: `channels`, `schemas`, `metadata` (name, {key: text}), and `messages()`.

    `profile` is what the file says it follows; `indexed` tells whether it was closed properly; `damage` lists what
    could not be read, in words. Raises ValueError if the file is no MCAP file at all.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.damage: list[str] = []
        self.channels: dict[int, Any] = {}
        self.schemas: dict[int, Any] = {}
        self.metadata: list[tuple[str, dict[str, str]]] = []
        self.counts: dict[int, int] = {}
        self.profile = ""
        self._chunks: list[Chunk] = []
        self._loose = False
        with self.path.open("rb") as stream:
            found = stream.read(len(MAGIC))
            if found != MAGIC:
                raise ValueError(f"{self.path}: not an MCAP file: it begins with {found!r}, expected {MAGIC!r}")
            self.profile = _read_profile(stream)
            self.indexed = self._read_index(stream)
            if not self.indexed:
                self._walk(stream)

    def messages(self, channel_ids: Collection[int] | None = None, as_written: bool = False) -> Iterator[RawMessage]:
        """Messages of the given channels (None: all), in order of log time or `as_written`; a file without chunks is
        always read as written."""
        with self.path.open("rb") as stream:
            if self._loose:
                yield from self._loose_messages(stream, channel_ids)
            elif as_written:
                for chunk in sorted(self._wanted(channel_ids), key=lambda chunk: chunk.offset):
                    yield from self._chunk_messages(stream, chunk, channel_ids)
            else:
                yield from self._messages_by_time(stream, channel_ids)

    def topic(self, message: RawMessage) -> str:
        """The topic that a message was sent on."""
        return self.channels[message.channel_id].topic

    def _read_index(self, stream: BinaryIO) -> bool:
        """Take channels, schemas, metadata and chunks from the summary; False if there is none to be trusted."""
        from mcap.exceptions import McapError
        from mcap.reader import SeekingReader

        if not _index_checks(stream):
            return False
        try:
            stream.seek(0)
            reader = SeekingReader(stream)
            summary = reader.get_summary()
            if summary is None or summary.statistics is None:
                return False
            loose = summary.statistics.message_count > 0 and not summary.chunk_indexes
            self.metadata = [(record.name, record.metadata) for record in reader.iter_metadata()]
        except (McapError, ValueError, OSError, struct.error, OverflowError, MemoryError):
            return False
        self.channels, self.schemas = dict(summary.channels), dict(summary.schemas)
        self.counts = dict(summary.statistics.channel_message_counts)
        self._loose = loose
        self._chunks = [
            Chunk(
                c.chunk_start_offset,
                c.chunk_length,
                c.message_start_time,
                c.message_end_time,
                True,
                frozenset(c.message_index_offsets),
            )
            for c in summary.chunk_indexes
        ]
        return True

    def _walk(self, stream: BinaryIO) -> None:
        """Find the chunks of a file without an index, reading no more of them than needed to know the channels."""
        found = _Found()
        end = os.fstat(stream.fileno()).st_size
        offset = len(MAGIC)
        while offset + RECORD.size <= end and not found.footer:
            stream.seek(offset)
            opcode, length = RECORD.unpack(stream.read(RECORD.size))
            if length > LARGEST_RECORD and opcode != OP_CHUNK:
                found.broken = f"from byte {offset} on the records make no sense"
                break
            self._walk_record(stream, found, (opcode, offset, length, end))
            offset += RECORD.size + length
        self._chunks, self._loose = found.chunks, found.loose
        if found.broken:
            self.damage.append(found.broken)
        if not found.footer:
            self.damage.append(f"it has no end: cut off, or not closed ({end} bytes, {len(found.chunks)} chunks found)")
        else:
            self.damage.append("its index cannot be read; the chunks were found without it")
        self._learn_channels(stream)

    def _walk_record(self, stream: BinaryIO, found: _Found, record: tuple[int, int, int, int]) -> None:
        opcode, offset, length, end = record
        inside = offset + RECORD.size + length <= end
        if opcode == OP_CHUNK:
            head = stream.read(CHUNK_HEAD.size)
            if len(head) == CHUNK_HEAD.size:
                start, last, _, _ = CHUNK_HEAD.unpack(head)
                found.chunks.append(Chunk(offset, min(RECORD.size + length, end - offset), start, last, inside))
        elif opcode == OP_MESSAGE_INDEX and inside and found.chunks:
            channel = struct.unpack("<H", stream.read(2))[0]
            last_chunk = found.chunks[-1]
            ids = last_chunk.channel_ids | {channel}
            found.chunks[-1] = Chunk(last_chunk.offset, last_chunk.length, last_chunk.start, last_chunk.end, True, ids)
        elif opcode == OP_METADATA and inside:
            self._take_metadata(stream.read(length))
        elif opcode in (OP_SCHEMA, OP_CHANNEL) and inside:
            self._take_definition(opcode, stream.read(length))
        elif opcode == OP_MESSAGE:
            found.loose = True
        elif opcode == OP_FOOTER:
            found.footer = True

    def _learn_channels(self, stream: BinaryIO) -> None:
        """Definitions are written before the first message that needs them, so the earliest chunks have them."""
        for chunk in self._chunks:
            if chunk.whole and chunk.channel_ids and chunk.channel_ids <= self.channels.keys():
                continue
            for opcode, record in self._records(stream, chunk, quiet=True):
                if opcode in (OP_SCHEMA, OP_CHANNEL):
                    self._take_definition(opcode, bytes(record))

    def _take_definition(self, opcode: int, record: bytes) -> None:
        from mcap.records import Channel, Schema

        known, kind = (self.schemas, Schema) if opcode == OP_SCHEMA else (self.channels, Channel)
        definition = self._parsed(kind, record)
        if definition is not None:
            known.setdefault(definition.id, definition)

    def _take_metadata(self, record: bytes) -> None:
        from mcap.records import Metadata

        metadata = self._parsed(Metadata, record)
        if metadata is not None:
            self.metadata.append((metadata.name, metadata.metadata))

    def _parsed(self, kind: Any, record: bytes) -> Any:
        """A record of the mcap library, or None if it is damaged."""
        from mcap.data_stream import ReadDataStream
        from mcap.exceptions import McapError

        try:
            return kind.read(ReadDataStream(io.BytesIO(record)))
        except (McapError, ValueError, struct.error):
            note = f"a {kind.__name__.lower()} record is damaged"
            if note not in self.damage:
                self.damage.append(note)
            return None

    def _messages_by_time(self, stream: BinaryIO, channel_ids: Collection[int] | None) -> Iterator[RawMessage]:
        """A chunk is opened when its first time is due, so that no more chunks are in memory than overlap in time."""
        order = itertools.count()
        heap: list[tuple[int, int, Any]] = [(chunk.start, next(order), chunk) for chunk in self._wanted(channel_ids)]
        heapq.heapify(heap)
        while heap:
            _, _, item = heapq.heappop(heap)
            if isinstance(item, RawMessage):
                yield item
                continue
            for message in self._chunk_messages(stream, item, channel_ids):
                heapq.heappush(heap, (message.log_time, next(order), message))

    def _wanted(self, channel_ids: Collection[int] | None) -> list[Chunk]:
        if channel_ids is None:
            return self._chunks
        return [c for c in self._chunks if not c.channel_ids or not c.channel_ids.isdisjoint(channel_ids)]

    def _chunk_messages(self, stream: BinaryIO, chunk: Chunk, ids: Collection[int] | None) -> list[RawMessage]:
        messages = []
        for opcode, record in self._records(stream, chunk):
            if opcode in (OP_SCHEMA, OP_CHANNEL):
                self._take_definition(opcode, bytes(record))
            elif opcode == OP_MESSAGE:
                message = read_message(record)
                if (ids is None or message.channel_id in ids) and message.channel_id in self.channels:
                    messages.append(message)
        return messages

    def _records(self, stream: BinaryIO, chunk: Chunk, quiet: bool = False) -> list[tuple[int, memoryview]]:
        """Records inside one chunk; of one that is cut off, those that are whole. Damage is listed unless `quiet`."""
        try:
            return split_records(memoryview(self._contents(stream, chunk)), lenient=not chunk.whole)
        except (ValueError, RuntimeError, struct.error, OverflowError, MemoryError) as error:
            if not quiet:
                note = f"the chunk at byte {chunk.offset} cannot be read ({error}); its messages are left out"
                if note not in self.damage:
                    self.damage.append(note)
            return []

    def _contents(self, stream: BinaryIO, chunk: Chunk) -> bytes | memoryview:
        stream.seek(chunk.offset + RECORD.size)
        data = memoryview(stream.read(chunk.length - RECORD.size))
        if len(data) < CHUNK_HEAD.size + 4:
            raise ValueError("only its first bytes are there")
        _, _, size, crc = CHUNK_HEAD.unpack_from(data)
        name_end = CHUNK_HEAD.size + 4 + struct.unpack_from("<I", data, CHUNK_HEAD.size)[0]
        if name_end + 8 > len(data):
            raise ValueError("its header is damaged")
        codec = bytes(data[CHUNK_HEAD.size + 4 : name_end]).decode("ascii", "replace")
        contents = decompress(codec, data[name_end + 8 :], size, partial=not chunk.whole)
        if chunk.whole and crc and zlib.crc32(contents) != crc:
            raise ValueError("its checksum is wrong")
        return contents

    def _loose_messages(self, stream: BinaryIO, ids: Collection[int] | None) -> Iterator[RawMessage]:
        offset = stream.seek(len(MAGIC))
        while len(head := stream.read(RECORD.size)) == RECORD.size:
            opcode, length = RECORD.unpack(head)
            if opcode == OP_FOOTER or length > LARGEST_RECORD:
                return
            if opcode == OP_CHUNK:
                chunk = Chunk(offset, RECORD.size + length, 0, 0)
                yield from self._chunk_messages(stream, chunk, ids)
            elif opcode == OP_MESSAGE:
                record = memoryview(stream.read(length))
                if len(record) < length:
                    return
                message = read_message(record)
                if (ids is None or message.channel_id in ids) and message.channel_id in self.channels:
                    yield message
            offset = stream.seek(offset + RECORD.size + length)


def _index_checks(stream: BinaryIO) -> bool:
    """Whether the file ends as a whole one does, and its summary has the checksum that the footer says (if any)."""
    end = stream.seek(0, os.SEEK_END)
    if end < len(MAGIC) + FOOTER_BYTES:
        return False
    stream.seek(end - FOOTER_BYTES)
    footer = stream.read(FOOTER_BYTES)
    start, _, crc = struct.unpack_from("<QQI", footer, RECORD.size)
    if not footer.endswith(MAGIC) or footer[0] != OP_FOOTER or start > end:
        return False
    stream.seek(start)
    return not crc or not start or zlib.crc32(stream.read(end - start - len(MAGIC) - 4)) == crc


def _read_profile(stream: BinaryIO) -> str:
    """The profile that the header record names; empty if that record is damaged."""
    head = stream.read(RECORD.size + 4)
    if len(head) < RECORD.size + 4 or head[0] != OP_HEADER:
        return ""
    length = struct.unpack_from("<I", head, RECORD.size)[0]
    return stream.read(length).decode("utf-8", "replace") if length < 256 else ""


def read_message(record: memoryview) -> RawMessage:
    """The message in a message record."""
    channel_id, sequence, log_time, publish_time = MESSAGE_HEAD.unpack_from(record)
    return RawMessage(channel_id, sequence, log_time, publish_time, record[MESSAGE_HEAD.size :])


def split_records(data: memoryview, lenient: bool = False) -> list[tuple[int, memoryview]]:
    """The (opcode, contents) of records one after another; one cut off at the end is an error unless `lenient`."""
    records, at = [], 0
    while at + RECORD.size <= len(data):
        opcode, length = RECORD.unpack_from(data, at)
        at += RECORD.size
        if at + length > len(data):
            if lenient:
                break
            raise ValueError("its records run over its end")
        records.append((opcode, data[at : at + length]))
        at += length
    return records


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
