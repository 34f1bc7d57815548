"""What an MCAP file holds, as its index tells or, without a usable one, as a walk over its records finds it."""

from __future__ import annotations

import io
import os
import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from streamtok.extras import missing_extra
from streamtok.recording import mcap_records as spec
from streamtok.recording.mcap_records import MAGIC, RECORD, Chunk, read_chunk, split_records

if TYPE_CHECKING:
    from mcap.records import Channel, Schema

FOOTER_BYTES = RECORD.size + 20 + len(MAGIC)
DEFINITIONS = {spec.OP_SCHEMA: "schema", spec.OP_CHANNEL: "channel", spec.OP_METADATA: "metadata"}


@dataclass
class Contents:
    """Channels, schemas and message counts by id, metadata as (name, {key: text}), and where the chunks lie.

    `loose`: messages lie outside chunks. `indexed`: the file was closed properly. `damage` says what cannot be read.
    """

    profile: str = ""
    channels: dict[int, Channel] = field(default_factory=dict)
    schemas: dict[int, Schema] = field(default_factory=dict)
    metadata: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    counts: dict[int, int] = field(default_factory=dict)
    chunks: list[Chunk] = field(default_factory=list)
    loose: bool = False
    indexed: bool = False
    damage: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        if text not in self.damage:
            self.damage.append(text)

    def take_definition(self, opcode: int, record: bytes) -> None:
        """Keep a schema, channel or metadata record; a damaged one is noted, any other record left alone."""
        from mcap.data_stream import ReadDataStream
        from mcap.exceptions import McapError
        from mcap.records import Channel, Metadata, Schema

        data = ReadDataStream(io.BytesIO(record))
        try:
            if opcode == spec.OP_SCHEMA:
                schema = Schema.read(data)
                self.schemas.setdefault(schema.id, schema)
            elif opcode == spec.OP_CHANNEL:
                channel = Channel.read(data)
                self.channels.setdefault(channel.id, channel)
            elif opcode == spec.OP_METADATA:
                metadata = Metadata.read(data)
                self.metadata.append((metadata.name, metadata.metadata))
        except (McapError, ValueError, struct.error):
            self.note(f"a {DEFINITIONS[opcode]} record is damaged")


def read_contents(stream: BinaryIO) -> Contents:
    """The contents of a file that begins with MAGIC, whole or not; raises ImportError without the mcap package."""
    contents = _read_index(stream) or _walk(stream)
    contents.profile = _read_profile(stream)
    _learn_channels(stream, contents)
    return contents


def _read_index(stream: BinaryIO) -> Contents | None:
    """Channels, schemas, metadata and chunks as the summary has them; None if there is no summary to be trusted."""
    try:
        from mcap.exceptions import McapError
        from mcap.reader import SeekingReader
    except ImportError as error:
        raise missing_extra("reading MCAP files", "record") from error
    if not _is_closed(stream):
        return None
    try:
        stream.seek(0)
        reader = SeekingReader(stream)
        summary = reader.get_summary()
        metadata = [(record.name, record.metadata) for record in reader.iter_metadata()]
    except (McapError, ValueError, OSError, struct.error, OverflowError, MemoryError):
        return None
    if summary is None or summary.statistics is None:
        return None
    chunks = [
        Chunk(c.chunk_start_offset, c.chunk_length, c.message_start_time, c.message_end_time, True, found)
        for c in summary.chunk_indexes
        for found in [dict(c.message_index_offsets)]
    ]
    return Contents(
        channels=dict(summary.channels),
        schemas=dict(summary.schemas),
        metadata=metadata,
        counts=dict(summary.statistics.channel_message_counts),
        chunks=chunks,
        loose=summary.statistics.message_count > 0 and not chunks,
        indexed=True,
    )


def _is_closed(stream: BinaryIO) -> bool:
    """Whether the file ends as a whole one does, and its summary has the checksum that the footer says (if any)."""
    end = stream.seek(0, os.SEEK_END)
    if end < len(MAGIC) + FOOTER_BYTES:
        return False
    stream.seek(end - FOOTER_BYTES)
    footer = stream.read(FOOTER_BYTES)
    start, _, crc = struct.unpack_from("<QQI", footer, RECORD.size)
    if not footer.endswith(MAGIC) or footer[0] != spec.OP_FOOTER or start > end:
        return False
    stream.seek(start)
    return not crc or not start or zlib.crc32(stream.read(end - start - len(MAGIC) - 4)) == crc


def _walk(stream: BinaryIO) -> Contents:
    """The contents of a file without an index; of its chunks no more than their heads is read."""
    contents, footer = Contents(), False
    end = os.fstat(stream.fileno()).st_size
    offset = len(MAGIC)
    while offset + RECORD.size <= end and not footer:
        stream.seek(offset)
        opcode, length = RECORD.unpack(stream.read(RECORD.size))
        if length > spec.LARGEST_RECORD and opcode != spec.OP_CHUNK:
            contents.note(f"from byte {offset} on the records make no sense")
            break
        _walk_record(stream, contents, opcode, (offset, length, end))
        footer = opcode == spec.OP_FOOTER
        offset += RECORD.size + length
    if footer:
        contents.note("its index cannot be read; the chunks were found without it")
    else:
        if contents.chunks:
            contents.chunks[-1].index.clear()  # the file may have been cut off within it
        contents.note(f"it has no end: cut off, or not closed ({end} bytes, {len(contents.chunks)} chunks found)")
    return contents


def _walk_record(stream: BinaryIO, contents: Contents, opcode: int, place: tuple[int, int, int]) -> None:
    """Take what one record says; `place` is its offset, the length of what is in it, and the length of the file."""
    offset, length, end = place
    inside = offset + RECORD.size + length <= end
    if opcode == spec.OP_CHUNK:
        head = stream.read(spec.CHUNK_HEAD.size)
        if len(head) == spec.CHUNK_HEAD.size:
            start_ns, end_ns, _, _ = spec.CHUNK_HEAD.unpack(head)
            there = min(RECORD.size + length, end - offset)
            contents.chunks.append(Chunk(offset, there, start_ns, end_ns, inside))
    elif opcode == spec.OP_MESSAGE_INDEX and inside and contents.chunks:
        contents.chunks[-1].index[struct.unpack("<H", stream.read(2))[0]] = offset
    elif opcode in DEFINITIONS and inside:
        contents.take_definition(opcode, stream.read(length))
    elif opcode == spec.OP_MESSAGE:
        contents.loose = True


def _learn_channels(stream: BinaryIO, contents: Contents) -> None:
    """Read the chunks whose channels are not known yet: definitions come before the first message that needs them."""
    for chunk in contents.chunks:
        known = chunk.index.keys() <= contents.channels.keys() if chunk.index else contents.indexed
        if known and contents.channels:
            continue
        try:
            records = split_records(read_chunk(stream, chunk), lenient=not chunk.whole)
        except spec.UNPACK_ERRORS:
            continue  # noted when its messages are wanted
        for record in records:
            if record.opcode in (spec.OP_SCHEMA, spec.OP_CHANNEL):
                contents.take_definition(record.opcode, bytes(record.contents))


def _read_profile(stream: BinaryIO) -> str:
    """The profile that the header record names; empty if that record is damaged."""
    stream.seek(len(MAGIC))
    head = stream.read(RECORD.size + 4)
    if len(head) < RECORD.size + 4 or head[0] != spec.OP_HEADER:
        return ""
    length = struct.unpack_from("<I", head, RECORD.size)[0]
    return stream.read(length).decode("utf-8", "replace") if length < 256 else ""
