"""Walk over the records of an MCAP file without its index, and past damage."""

import mmap
import os
import re
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO

from streamtok.recording import mcap_records as spec
from streamtok.recording.mcap_records import CHUNK_HEAD, MAGIC, RECORD

LIKELY = re.compile(rb"[\x01-\x0f].{4}\0{4}", re.DOTALL)  # an opcode, and a length below 4 GiB
ROW = 4  # records in a row that are plausible are not chance
LEAST = {spec.OP_MESSAGE: spec.MESSAGE_HEAD.size, spec.OP_CHUNK: CHUNK_HEAD.size + 12}


def walk_records(stream: BinaryIO, note: Callable[[str], None]) -> Iterator[tuple[int, int, int]]:
    """(opcode, offset, length of the content) of each record up to the footer; the last may run over the end.

    Damage is passed to `note`, and the walk continues with the next plausible records.
    """
    end = os.fstat(stream.fileno()).st_size
    stream.seek(max(0, end - len(MAGIC)))
    closed = stream.read() == MAGIC
    offset = len(MAGIC)
    before = offset  # where to resume the search if this record is damaged
    while offset + RECORD.size <= end:
        opcode, length = _read_head(stream, offset)
        following = offset + RECORD.size + length
        inner = _inner_length(stream, offset, end) if opcode == spec.OP_CHUNK else length
        behind = offset + RECORD.size + inner
        if inner != length and inner > 0 and (behind == end or _begins_record(stream, behind, end)):
            length, following = inner, behind  # the length of the chunk's record is damaged
        cut_off = not closed and opcode == spec.OP_CHUNK and inner == length
        if opcode == 0 or (following > end and not cut_off):
            found = _find_records(stream, before, end)
            if found < end or closed or not 0 < opcode <= spec.LAST_OPCODE:
                note(f"from byte {offset} on the records make no sense")
                offset = before = found
                continue
        yield opcode, offset, length
        if opcode == spec.OP_FOOTER:
            return
        before = following if opcode == spec.OP_CHUNK and inner == length else offset + RECORD.size
        offset = following


def _read_head(stream: BinaryIO, offset: int) -> tuple[int, int]:
    stream.seek(offset)
    opcode, length = RECORD.unpack(stream.read(RECORD.size))
    return opcode, length


def _inner_length(stream: BinaryIO, offset: int, end: int) -> int:
    """The length of a chunk's content by the chunk's own header; -1 if that is damaged or cut off."""
    stream.seek(offset + RECORD.size + CHUNK_HEAD.size)
    name = stream.read(4)
    size = struct.unpack("<I", name)[0] if len(name) == 4 else end
    if size > 16:
        return -1
    stream.seek(size, os.SEEK_CUR)
    records = stream.read(8)
    return CHUNK_HEAD.size + 4 + size + 8 + struct.unpack("<Q", records)[0] if len(records) == 8 else -1


def _begins_record(stream: BinaryIO, offset: int, end: int) -> bool:
    if not 0 < offset <= end - RECORD.size:
        return False
    opcode, length = _read_head(stream, offset)
    fits = offset + RECORD.size + length <= end and length >= LEAST.get(opcode, 0)
    return 0 < opcode <= spec.LAST_OPCODE and fits


def _find_records(stream: BinaryIO, start: int, end: int) -> int:
    """The offset of the next plausible records from `start` on: a chunk, or several in a row; `end` if none."""
    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        while found := LIKELY.search(data, start):
            if _begins_row(stream, found.start(), end):
                return found.start()
            start = found.start() + 1
    return end


def _begins_row(stream: BinaryIO, offset: int, end: int) -> bool:
    for _ in range(ROW):
        if offset == end or not _begins_record(stream, offset, end):
            return offset == end
        opcode, length = _read_head(stream, offset)
        if opcode == spec.OP_CHUNK:
            return _inner_length(stream, offset, end) == length
        offset += RECORD.size + length
        if opcode == spec.OP_FOOTER:
            return offset + len(MAGIC) == end
    return True
