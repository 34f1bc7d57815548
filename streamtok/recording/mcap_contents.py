"""List what an MCAP file holds, from its index or, without a usable one, by walking over its records."""

import io
import itertools
import os
import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

from streamtok.extras import needs_extra
from streamtok.recording import mcap_records as spec
from streamtok.recording.mcap_records import MAGIC, RECORD, Chunk, read_chunk, split_records, unpack_damaged
from streamtok.recording.mcap_walk import walk_records

if TYPE_CHECKING:
    from mcap.reader import Summary
    from mcap.records import Channel, Schema, Statistics

DATA_END = RECORD.pack(spec.OP_DATA_END, 4)
FOOTER_BYTES = RECORD.size + 20 + len(MAGIC)
DEFINITIONS = {spec.OP_HEADER: "header", spec.OP_METADATA: "metadata"}
DEFINITIONS |= {spec.OP_SCHEMA: "schema", spec.OP_CHANNEL: "channel", spec.OP_STATISTICS: "statistics"}


@dataclass(eq=False, repr=False)
class Contents:
    """A file's channels, schemas and message counts by id, and where its chunks lie; `profile` is in its header."""

    profile: str = ""
    channels: "dict[int, Channel]" = field(default_factory=dict)
    schemas: "dict[int, Schema]" = field(default_factory=dict)
    metadata: list[tuple[str, dict[str, str]]] = field(default_factory=list)  # (name, {key: text})
    counts: dict[int, int] = field(default_factory=dict)
    chunks: list[Chunk] = field(default_factory=list)
    attachments: list[tuple[int, int]] = field(default_factory=list)  # (offset, length) of their records
    channel_count: int | None = None  # by the file's statistics
    loose: bool = False  # whether messages lie outside chunks
    indexed: bool = False  # whether the file was closed properly
    damage: list[str] = field(default_factory=list)  # what cannot be read

    def note(self, text: str) -> None:
        """Add to `damage`, unless the same text is there."""
        if text not in self.damage:
            self.damage.append(text)

    @property
    def described(self) -> set[int]:
        """The ids of channels that are known together with their schemas."""
        return {n for n, channel in self.channels.items() if channel.schema_id in self.schemas or not channel.schema_id}

    def take_definition(self, opcode: int, record: bytes) -> None:
        """Keep a record of `DEFINITIONS`; note a damaged one."""
        from mcap import data_stream, exceptions, records

        name = DEFINITIONS[opcode]
        try:
            found = getattr(records, name.title()).read(data_stream.ReadDataStream(io.BytesIO(record)))
        except (exceptions.McapError, ValueError, struct.error):
            self.note(f"a {name} record is damaged")
            return
        if opcode == spec.OP_SCHEMA:
            self._define(self.schemas, found, found.name)
        elif opcode == spec.OP_CHANNEL:
            self._define(self.channels, found, found.topic)
        elif opcode == spec.OP_METADATA:
            self.metadata.append((found.name, found.metadata))
        elif opcode == spec.OP_HEADER:
            self.profile = found.profile
        elif sum(found.channel_message_counts.values()) == found.message_count:
            self.counts, self.channel_count = dict(found.channel_message_counts), found.channel_count

    def _define(self, known: dict[int, Any], found: Any, name: str) -> None:
        """Keep a definition; of two with one id, which concatenated files have, the first."""
        if known.setdefault(found.id, found) != found:
            self.note(f"the number {found.id} is given twice, the second time to {name}: all is read as the first")


def read_contents(stream: BinaryIO) -> Contents:
    """The contents of a file that begins with MAGIC, complete or not; raises ImportError without the mcap package."""
    return _read_index(stream) or _walk(stream)


def _read_index(stream: BinaryIO) -> Contents | None:
    """The contents by the file's summary; None if that is missing, damaged, incomplete or without a checksum."""
    with needs_extra("reading MCAP files", "record"):
        from mcap.reader import SeekingReader
    end = stream.seek(0, os.SEEK_END)
    start, crc = _read_footer(stream, end - FOOTER_BYTES, end) or (0, 0)
    if not crc:
        return None
    try:
        stream.seek(0)
        reader = SeekingReader(stream)
        profile, summary = reader.get_header().profile, reader.get_summary()
        metadata = [(record.name, record.metadata) for record in reader.iter_metadata()]
        data_end = stream.seek(start - len(DATA_END) - 4)  # it comes before the summary
        if stream.read(len(DATA_END)) != DATA_END:
            return None  # bytes were lost or added before it
    except Exception:  # mcap raises its own errors, and those of decompressors
        return None
    statistics, chunks = summary.statistics if summary else None, []
    if summary is None or statistics is None or not _lists_everything(summary, statistics, data_end):
        return None
    for c in summary.chunk_indexes:
        times = c.message_start_time, c.message_end_time
        chunks.append(Chunk(c.chunk_start_offset, c.chunk_length, *times, True, dict(c.message_index_offsets)))
    contents = Contents(
        profile=profile,
        channels=dict(summary.channels),
        schemas=dict(summary.schemas),
        metadata=metadata,
        attachments=[(a.offset, a.length) for a in summary.attachment_indexes],
        counts=dict(statistics.channel_message_counts),
        chunks=chunks,
        loose=statistics.message_count > 0 and not chunks,
        channel_count=statistics.channel_count,
        indexed=True,
    )
    _read_unknown_channels(stream, contents, contents)
    return contents


def _lists_everything(summary: "Summary", told: "Statistics", data_end: int) -> bool:
    """Whether a summary indexes all messages, metadata and attachments; files may omit parts of it.

    It is wrong if chunks overlap, or run over the end of the data.
    """
    starts = sorted((c.chunk_start_offset, c.chunk_length + c.message_index_length) for c in summary.chunk_indexes)
    apart = all(a + length <= b for (a, length), (b, _) in itertools.pairwise([*starts, (data_end, 0)]))
    known = told.channel_count <= len(summary.channels) or bool(summary.chunk_indexes)  # chunks have them, too
    found = len(summary.chunk_indexes), len(summary.metadata_indexes), len(summary.attachment_indexes)
    return known and apart and found == (told.chunk_count, told.metadata_count, told.attachment_count)


def _read_footer(stream: BinaryIO, offset: int, end: int) -> tuple[int, int] | None:
    """(start of the summary, its checksum) by a footer at `offset`; None if the file is not complete, or that wrong."""
    if offset < len(MAGIC):
        return None
    stream.seek(offset)
    footer = stream.read(end - offset)
    if not footer.endswith(MAGIC) or footer[0] != spec.OP_FOOTER or len(footer) != FOOTER_BYTES:
        return None
    start, _, crc = struct.unpack_from("<QQI", footer, RECORD.size)
    if start > offset:
        return None
    stream.seek(start)
    right = not crc or not start or zlib.crc32(stream.read(offset + RECORD.size + 16 - start)) == crc
    return (start, crc) if right else None


def _walk(stream: BinaryIO) -> Contents:
    """The contents of a file without a complete index; only the headers of chunks are read.

    Definitions that the summary repeats come last, because the summary may be the damaged part.
    """
    contents, repeated, footer, data_ended = Contents(), Contents(), None, False
    end = os.fstat(stream.fileno()).st_size
    for opcode, offset, length in walk_records(stream, contents.note):
        data_ended = data_ended or opcode == spec.OP_DATA_END
        footer = offset if opcode == spec.OP_FOOTER else None
        if offset + RECORD.size + length <= end or opcode == spec.OP_CHUNK:
            into = repeated if data_ended and opcode in DEFINITIONS else contents
            _walk_record(stream, into, opcode, offset, length, end)
    if footer is None:
        if contents.chunks:
            contents.chunks[-1].index.clear()  # the file may be cut off within this index
        contents.note(f"it has no end: cut off, or not closed ({end} bytes, {len(contents.chunks)} chunks found)")
    elif _read_footer(stream, footer, end):
        contents.indexed = True
    else:
        contents.note("its index cannot be read; the chunks were found without it")
        _note_rest(stream, contents, footer + FOOTER_BYTES, end)
    contents.counts = repeated.counts
    if repeated.channel_count == len(repeated.channels):  # else one of both may be damaged
        contents.channel_count = repeated.channel_count
    _read_unknown_channels(stream, contents, repeated)
    contents.channels = repeated.channels | contents.channels
    contents.schemas = repeated.schemas | contents.schemas
    contents.damage += [text for text in repeated.damage if text not in contents.damage]
    return contents


def _note_rest(stream: BinaryIO, contents: Contents, offset: int, end: int) -> None:
    """Note data after the end of the file, from `offset` to `end`."""
    if offset >= end:  # also if the length of the last record is damaged
        return
    stream.seek(offset)
    another = f"another MCAP file (`tail -c +{offset + 1} FILE` gives it)"
    what = another if stream.read(len(MAGIC)) == MAGIC else "no part of it"
    contents.note(f"what comes after its end, from byte {offset} on, is left out: {end - offset} bytes, {what}")


def _walk_record(stream: BinaryIO, contents: Contents, opcode: int, offset: int, length: int, end: int) -> None:
    """Add the record at `offset` to `contents`; `length` is that of its content, `end` that of the file."""
    stream.seek(offset + RECORD.size)
    if opcode == spec.OP_CHUNK:
        head = stream.read(spec.CHUNK_HEAD.size)
        if len(head) == spec.CHUNK_HEAD.size:
            start_ns, end_ns, _, _ = spec.CHUNK_HEAD.unpack(head)
            there = min(RECORD.size + length, end - offset)
            contents.chunks.append(Chunk(offset, there, start_ns, end_ns, there == RECORD.size + length))
    elif opcode == spec.OP_MESSAGE_INDEX and contents.chunks:
        contents.chunks[-1].index[struct.unpack("<H", stream.read(2))[0]] = offset
    elif opcode in DEFINITIONS:
        contents.take_definition(opcode, stream.read(length))
    elif opcode == spec.OP_ATTACHMENT:
        contents.attachments.append((offset, RECORD.size + length))
    elif opcode == spec.OP_MESSAGE:
        contents.loose = True


def _read_unknown_channels(stream: BinaryIO, contents: Contents, doubtful: Contents) -> None:
    """Read chunks with unknown channels: definitions come before the first message that needs them.

    Damaged chunks are read too, because an unknown channel costs all its messages; what they define is `doubtful`.
    """
    for chunk in contents.chunks:
        complete = len(contents.described) >= (contents.channel_count or 1 << 16)
        if complete or (chunk.index and chunk.index.keys() <= contents.described):
            continue
        into = contents
        try:
            records = split_records(read_chunk(stream, chunk), lenient=not chunk.whole)
        except spec.UNPACK_ERRORS as error:
            contents.note(chunk.describe(error))
            records, into = split_records(unpack_damaged(stream, chunk), lenient=True), doubtful
        for record in records:
            if record.opcode in (spec.OP_SCHEMA, spec.OP_CHANNEL):
                into.take_definition(record.opcode, bytes(record.contents))
