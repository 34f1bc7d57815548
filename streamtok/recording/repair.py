"""Recover MCAP files that were cut off: everything that can be read goes into a new file with an index.

The old file stays as it is. Readers of a folder with both take only the repaired one (`parts.leave_out_copies`).
"""

import contextlib
import fcntl
import io
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from streamtok.names import name_errors
from streamtok.recording.format import REPAIR_METADATA, as_text
from streamtok.recording.mcap_file import McapFile
from streamtok.recording.mcap_records import RECORD
from streamtok.recording.packing import bare_name
from streamtok.recording.parts import REPAIRED

if TYPE_CHECKING:
    from mcap.writer import Writer


@dataclass(frozen=True)
class Repaired:
    """The result of a repair: messages written, what could not be read, and the new file (None: nothing was wrong)."""

    path: Path | None
    messages: int = 0
    damage: list[str] = field(default_factory=list)


def repair(path: str | Path, out: str | Path | None = None) -> Repaired:
    """Write what can be read of `path` to `out` (default: NAME_repaired.mcap beside it), an MCAP file with an index.

    An undamaged file is not copied unless `out` is given. Raises ValueError for what is no MCAP file or has no readable
    message; FileExistsError rather than overwrite; BlockingIOError while the file is still being written.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"recording {str(path)!r}: no such file")
    with path.open("rb") as stream:
        _check_not_written(stream, path)
    try:
        file = McapFile(path)
    except ValueError as error:
        raise ValueError(f"{error}; damaged bags and videos are read as they are by replay") from error
    if file.indexed and out is None:
        messages = sum(1 for _ in file.messages(as_written=True))  # reading it all finds all damage
        if not file.damage:
            return Repaired(None, messages)
    bare = path.with_name(bare_name(path))
    target = Path(out) if out is not None else bare.with_name(f"{bare.stem}{REPAIRED}{bare.suffix}")
    if target.exists():
        raise FileExistsError(f"{target} exists: give another name with -o, or remove it")
    part = target.with_name(target.name + ".part")
    try:
        with name_errors(target, " (-o writes the repaired file elsewhere)"):
            messages = copy_file(file, part, Copying())
        if not messages:
            raise ValueError(f"{path}: not one message can be read: {'; '.join(file.damage) or 'it holds none'}")
        os.replace(part, target)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return Repaired(target, messages, file.damage)


def _check_not_written(stream: BinaryIO, path: Path) -> None:
    """Raise BlockingIOError if a recorder holds the file's lock, as it does while it writes."""
    try:
        fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(f"{path} is still being written: end its recorder first") from None
    except OSError:
        pass  # a file system without locks


class Copying:
    """How messages and channels change while a file is copied: not at all here. `library` goes into the header."""

    library = "streamtok repair"

    def message(self, topic: str, data: bytes) -> bytes:
        return data

    def channel(self, topic: str, metadata: dict[str, str]) -> dict[str, str]:
        return metadata

    def facts(self, file: McapFile, messages: int) -> dict[str, str]:
        """The metadata that describes the repair."""
        return {"repaired_from": file.path.name, "messages": str(messages), "damage": "\n".join(file.damage)}


def copy_file(file: McapFile, target: Path, copying: Copying) -> int:
    """Write all that can be read to `target`, synced to the disk; returns the number of messages."""
    from mcap.writer import CompressionType, Writer

    with target.open("wb") as stream:
        writer = Writer(stream, compression=CompressionType.ZSTD)
        writer.start(profile=file.profile, library=copying.library)
        for name, values in file.metadata:
            writer.add_metadata(name, values)
        _copy_attachments(file, writer)
        messages = _copy_messages(file, writer, copying)
        if facts := copying.facts(file, messages):
            writer.add_metadata(REPAIR_METADATA, as_text(facts))
        writer.finish()
        stream.flush()
        os.fsync(stream.fileno())
    return messages


def _copy_attachments(file: McapFile, writer: "Writer") -> None:
    from mcap.data_stream import ReadDataStream
    from mcap.exceptions import McapError
    from mcap.records import Attachment

    with file.place.open("rb") as stream:
        for offset, length in file.attachments:
            stream.seek(offset + RECORD.size)
            record = ReadDataStream(io.BytesIO(stream.read(length - RECORD.size)))
            try:
                found = Attachment.read(record)
            except (McapError, ValueError, struct.error, OverflowError) as error:
                file.note(f"the attachment at byte {offset} cannot be read ({error}) and is left out")
                continue
            writer.add_attachment(found.create_time, found.log_time, found.name, found.media_type, found.data)


def _copy_messages(file: McapFile, writer: "Writer", copying: Copying) -> int:
    channels: dict[int, int] = {}
    schemas: dict[int, int] = {}
    written = 0
    for message in file.messages(as_written=True):
        number, log_ns, publish_ns = message.channel_id, message.log_time, message.publish_time
        if number not in channels:
            channels[number] = _copy_channel(file, writer, number, schemas, copying)
        data = copying.message(file.channels[number].topic, bytes(message.data))
        writer.add_message(channels[number], log_ns, data, publish_ns, message.sequence)
        written += 1
    return written


def _copy_channel(file: McapFile, writer: "Writer", number: int, schemas: dict[int, int], copying: Copying) -> int:
    """Register a channel of `file`, and its schema unless `schemas` has it, with the writer; returns its new id."""
    channel = file.channels[number]
    schema = file.schemas.get(channel.schema_id)
    if schema is not None and schema.id not in schemas:
        schemas[schema.id] = writer.register_schema(schema.name, schema.encoding, schema.data)
    kind = schemas.get(channel.schema_id, 0)
    metadata = copying.channel(channel.topic, channel.metadata)
    return writer.register_channel(channel.topic, channel.message_encoding, kind, metadata)
