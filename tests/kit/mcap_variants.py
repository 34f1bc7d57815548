"""MCAP files in every shape that the specification allows (https://mcap.dev/spec): with and without chunks, index,
statistics, repeated definitions, attachments and metadata. Written record by record, so that no writer decides."""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

MAGIC = b"\x89MCAP0\r\n"
HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX, CHUNK_INDEX = range(1, 9)
ATTACHMENT, ATTACHMENT_INDEX, STATISTICS, METADATA, METADATA_INDEX, SUMMARY_OFFSET, DATA_END = range(9, 16)
FEATURES = (
    *("chunks", "message index", "chunk index", "statistics", "repeated schemas", "repeated channels"),
    *("summary offsets", "attachment index", "metadata index", "checksums", "padding"),
)


def variants() -> Iterator[frozenset[str]]:
    """Every combination of features that can be: indexes of messages and chunks need chunks."""
    for count in range(len(FEATURES) + 1):
        for chosen in itertools.combinations(FEATURES, count):
            if "chunks" in chosen or not {"message index", "chunk index"} & set(chosen):
                yield frozenset(chosen)


@dataclass(frozen=True)
class Message:
    """One message for `write_variant`: the number of its channel, its log and publish time in ns, and its data."""

    channel: int
    log_ns: int
    data: bytes
    publish_ns: int = 0


@dataclass(frozen=True)
class Contents:
    """What a file holds: schemas (name, encoding, data), channels (topic, message encoding, number of the schema from 1
    on, 0 for none), messages, attachments {name: data}, metadata {name: {key: text}}."""

    schemas: Sequence[tuple[str, str, bytes]] = ()
    channels: Sequence[tuple[str, str, int]] = ()
    messages: Sequence[Message] = ()
    attachments: dict[str, bytes] = field(default_factory=dict)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<I", len(data)) + data


def pairs(values: dict[str, str]) -> bytes:
    return text(b"".join(text(key) + text(value) for key, value in values.items()))


class VariantWriter:
    """Puts one file together; `write` gives its bytes. Chunks hold `chunk_messages` messages."""

    def __init__(self, contents: Contents, features: frozenset[str], chunk_messages: int = 4) -> None:
        self.contents, self.features, self.chunk_messages = contents, features, chunk_messages
        self.data = bytearray(MAGIC)
        self.chunks: list[bytes] = []  # their index records
        self.attachments: list[bytes] = []
        self.metadata: list[bytes] = []

    def write(self) -> bytes:
        self.data += self.record(HEADER, text("") + text("variants"), padded=True)
        self.write_data()
        self.data += self.record(DATA_END, struct.pack("<I", self.checksum(bytes(self.data))))
        start = len(self.data)
        groups = self.summary()
        offsets = bytearray()
        for opcode, records in groups:
            at = len(self.data)
            self.data += b"".join(records)
            offsets += self.record(SUMMARY_OFFSET, struct.pack("<BQQ", opcode, at, len(self.data) - at), padded=True)
        offset_start = len(self.data) if "summary offsets" in self.features and groups else 0
        self.data += offsets if offset_start else b""
        footer = struct.pack("<QQ", start if groups else 0, offset_start)
        head = struct.pack("<BQ", FOOTER, 20) + footer
        crc = self.checksum(bytes(self.data[start:]) + head) if groups else 0
        return bytes(self.data) + head + struct.pack("<I", crc) + MAGIC

    def record(self, opcode: int, body: bytes, padded: bool = False) -> bytes:
        body += b"\1\2\3" if padded and "padding" in self.features else b""
        return struct.pack("<BQ", opcode, len(body)) + body

    def checksum(self, data: bytes) -> int:
        return zlib.crc32(data) if "checksums" in self.features else 0

    def schema(self, number: int) -> bytes:
        name, encoding, data = self.contents.schemas[number - 1]
        return self.record(SCHEMA, struct.pack("<H", number) + text(name) + text(encoding) + text(data), padded=True)

    def channel(self, number: int) -> bytes:
        topic, encoding, schema = self.contents.channels[number]
        body = struct.pack("<HH", number, schema) + text(topic) + text(encoding) + pairs({})
        return self.record(CHANNEL, body, padded=True)

    def write_data(self) -> None:
        for name, data in self.contents.attachments.items():
            body = struct.pack("<QQ", 1, 2) + text(name) + text("text/plain") + struct.pack("<Q", len(data)) + data
            at, record = len(self.data), self.record(ATTACHMENT, body + struct.pack("<I", self.checksum(body)))
            self.data += record
            index = struct.pack("<QQQQQ", at, len(record), 1, 2, len(data)) + text(name) + text("text/plain")
            self.attachments.append(self.record(ATTACHMENT_INDEX, index, padded=True))
        for name, values in self.contents.metadata.items():
            at, record = len(self.data), self.record(METADATA, text(name) + pairs(values), padded=True)
            self.data += record
            self.metadata.append(
                self.record(METADATA_INDEX, struct.pack("<QQ", at, len(record)) + text(name), padded=True)
            )
        self.write_messages()

    def write_messages(self) -> None:
        known: set[int] = set()
        messages = self.contents.messages
        size = self.chunk_messages if "chunks" in self.features else max(1, len(messages))
        for first in range(0, len(messages), size):
            inside, places = bytearray(), {}
            for message in messages[first : first + size]:
                if message.channel not in known:
                    known.add(message.channel)
                    schema = self.contents.channels[message.channel][2]
                    inside += (self.schema(schema) if schema else b"") + self.channel(message.channel)
                places.setdefault(message.channel, []).append((message.log_ns, len(inside)))
                head = struct.pack("<HIQQ", message.channel, 0, message.log_ns, message.publish_ns or message.log_ns)
                inside += self.record(MESSAGE, head + message.data)
            if "chunks" in self.features:
                self.write_chunk(bytes(inside), messages[first : first + size], places)
            else:
                self.data += inside

    def write_chunk(self, inside: bytes, messages: Sequence[Message], places: dict[int, list]) -> None:
        first, last = min(m.log_ns for m in messages), max(m.log_ns for m in messages)
        head = struct.pack("<QQQI", first, last, len(inside), self.checksum(inside))
        at, chunk = len(self.data), self.record(CHUNK, head + text("") + struct.pack("<Q", len(inside)) + inside)
        self.data += chunk
        offsets, begin = b"", len(self.data)
        for channel, entries in places.items() if "message index" in self.features else ():
            offsets += struct.pack("<HQ", channel, len(self.data))
            listed = b"".join(struct.pack("<QQ", *entry) for entry in entries)
            self.data += self.record(MESSAGE_INDEX, struct.pack("<H", channel) + text(listed), padded=True)
        index = struct.pack("<QQQQ", first, last, at, len(chunk)) + text(offsets)
        index += struct.pack("<Q", len(self.data) - begin) + text("") + struct.pack("<QQ", len(inside), len(inside))
        self.chunks.append(self.record(CHUNK_INDEX, index, padded=True))

    def summary(self) -> list[tuple[int, list[bytes]]]:
        """The groups of records of the summary that the features ask for."""
        used = sorted({message.channel for message in self.contents.messages})
        schemas = sorted({self.contents.channels[number][2] for number in used} - {0})
        wanted = [
            ("repeated schemas", SCHEMA, [self.schema(number) for number in schemas]),
            ("repeated channels", CHANNEL, [self.channel(number) for number in used]),
            ("statistics", STATISTICS, [self.statistics(schemas, used)]),
            ("chunk index", CHUNK_INDEX, self.chunks),
            ("attachment index", ATTACHMENT_INDEX, self.attachments),
            ("metadata index", METADATA_INDEX, self.metadata),
        ]
        return [(opcode, records) for feature, opcode, records in wanted if feature in self.features and records]

    def statistics(self, schemas: Sequence[int], channels: Sequence[int]) -> bytes:
        messages = self.contents.messages
        times = [message.log_ns for message in messages] or [0]
        counts = (
            len(messages),
            len(schemas),
            len(channels),
            len(self.contents.attachments),
            len(self.contents.metadata),
        )
        chunks = -(-len(messages) // self.chunk_messages) if "chunks" in self.features else 0
        each = b"".join(struct.pack("<HQ", c, sum(m.channel == c for m in messages)) for c in channels)
        body = struct.pack("<QHIIIIQQ", *counts, chunks, min(times), max(times)) + text(each)
        return self.record(STATISTICS, body, padded=True)
