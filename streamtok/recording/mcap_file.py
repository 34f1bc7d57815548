"""Read MCAP files in order, by channel or at random, so that damage costs only what it touches.

    file = McapFile("drive.mcap")
    for message in file.messages(file.channel_ids("tokens/")): ...
    places = file.locate(file.channel_ids("tokens/"))
    file.message_at(places[1000])

All code that reads MCAP files uses this class. Files that were closed are read by their index, in order of log time, or
as written if that clock was set back. Files that were cut off or are still being written are read by walking over their
records, up to the incomplete last chunk. A chunk with a wrong checksum is skipped and listed in `damage`.
"""

import contextlib
import heapq
import itertools
import os
from collections import Counter
from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from streamtok.recording import mcap_records as spec
from streamtok.recording.mcap_contents import Contents, read_contents
from streamtok.recording.mcap_records import MAGIC, RECORD, Chunk, RawMessage, read_chunk, read_message
from streamtok.recording.mcap_walk import walk_records
from streamtok.recording.packing import unpack_if_packed
from streamtok.times import go_over_twice

CACHED_CHUNKS = 64  # of about a megabyte each, for all files that a process reads by `message_at`
PLACE = np.dtype([("time", "<u8"), ("channel", "<u2"), ("chunk", "<i4"), ("offset", "<u8")])


class McapFile(Contents):
    """One MCAP file, complete or not: its contents, and its messages.

    `place` is the file that is read: `path`, or a temporary unpacked copy that lives as long as this object. `damage`
    lists what could not be read, in words. `counts` are empty without an index. Raises ValueError if it is no MCAP
    file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        faults: list[str] = []
        self.place, self._unpacked = unpack_if_packed(self.path, faults.append)
        with self.place.open("rb") as stream:
            found = stream.read(len(MAGIC))
            if found != MAGIC and not spec.begins_with_header(stream):
                raise ValueError(f"{self.path}: not an MCAP file: it begins with {found!r}, expected {MAGIC!r}")
            super().__init__(**vars(read_contents(stream)))
        described = self.described
        for chunk in self.chunks:
            if not chunk.index.keys() <= described:  # a damaged index would hide messages
                chunk.index.clear()
        if found != MAGIC:
            faults.append(f"its first bytes are damaged: {found!r}")
        self.damage += faults
        self._written_ns = self.path.stat().st_mtime_ns
        self._set_back: dict[int, bool] = {}  # by channel

    def channel_ids(self, prefix: str) -> set[int]:
        """The ids of channels whose topic begins with `prefix`."""
        return {number for number, channel in self.channels.items() if channel.topic.startswith(prefix)}

    def messages(
        self, channel_ids: Collection[int] | None = None, *, as_written: bool = False, unreadable: bool = False
    ) -> Iterator[RawMessage]:
        """Messages of the given channels (None: all) in order of log time, or of writing.

        The order is that of writing with `as_written`, and in files without chunks. `unreadable` adds messages without
        data that an index lists in damaged chunks.
        """
        ids = set(self.channels if channel_ids is None else channel_ids)
        read: Counter[int] = Counter()
        with self.place.open("rb") as stream:
            for message in self._messages(stream, ids, as_written):
                if unreadable or not message.unreadable:
                    read[message.channel_id] += not message.unreadable
                    yield message
        for number, count in self.counts.items():
            if number in ids and number in self.channels and read[number] < count:
                topic = self.channels[number].topic
                self.note(f"{count - read[number]} of {count} messages of {topic} cannot be read")

    def _messages(self, stream: BinaryIO, ids: set[int], as_written: bool) -> Iterator[RawMessage]:
        chunks = [chunk for chunk in self.chunks if not chunk.index or not ids.isdisjoint(chunk.index)]
        if self.loose:
            yield from self._loose_messages(stream, ids)
        elif as_written or self.was_set_back(ids):
            for chunk in sorted(chunks, key=lambda chunk: chunk.offset):
                yield from self._chunk_messages(stream, chunk, ids)
        else:
            yield from self._messages_by_time(stream, chunks, ids)

    @property
    def span(self) -> tuple[int, int] | None:
        """The first and the last log time, ns; None if chunks do not give it for all messages."""
        if not self.chunks or self.damage:
            return None
        return min(chunk.start_ns for chunk in self.chunks), max(chunk.end_ns for chunk in self.chunks)

    def was_set_back(self, channel_ids: Collection[int]) -> bool:
        """Whether the clock was set back, so that order by time would mix messages from before and after."""
        if unknown := set(channel_ids) - self._set_back.keys():
            self._set_back |= {number: go_over_twice(times) for number, times in self._read_times(unknown).items()}
        return any(self._set_back[number] for number in channel_ids)

    def _read_times(self, channel_ids: Collection[int]) -> dict[int, np.ndarray]:
        """The log times of these channels in the order of writing, from the message indexes."""
        parts = {number: [np.zeros(0, np.uint64)] for number in channel_ids}
        chunks = sorted(self.chunks, key=lambda chunk: chunk.offset)
        indices = [(number, chunk.index[number]) for chunk in chunks for number in parts if number in chunk.index]
        with self.place.open("rb") as stream:
            for number, offset in indices:
                with contextlib.suppress(ValueError):
                    listed = spec.read_message_index(stream, offset, number)
                    parts[number].append(listed["time"][np.argsort(listed["offset"])])
        return {number: np.concatenate(each) for number, each in parts.items()}

    def locate(self, channel_ids: Collection[int]) -> np.ndarray:
        """The places of these channels' messages: (n,) of `PLACE`, by log time, equal times in order of writing.

        Only chunks without a message index are read. ValueError for a file with messages outside chunks.
        """
        if self.loose:
            raise ValueError(f"{self.path} has no index of its messages: run `streamtok repair {self.path}`")
        with self.place.open("rb") as stream:
            parts = [part for number in range(len(self.chunks)) for part in self._places(stream, number, channel_ids)]
        places = np.concatenate([np.zeros(0, PLACE), *parts])
        return places[np.lexsort((places["offset"], places["chunk"], places["time"]))]

    def message_at(self, place: np.void) -> RawMessage:
        """The message at a place that `locate` gave; ValueError if its chunk is damaged."""
        chunk = self.chunks[int(place["chunk"])]
        try:
            records = _cached_records(self.place, self._written_ns, chunk)
            return read_message(spec.record_at(records, int(place["offset"])).contents)
        except spec.UNPACK_ERRORS as error:
            raise ValueError(f"{self.path}: the chunk at byte {chunk.offset} is damaged: {error}") from error

    def _places(self, stream: BinaryIO, number: int, channel_ids: Collection[int]) -> Iterator[np.ndarray]:
        chunk = self.chunks[number]
        if not chunk.index:
            found = self._read_messages(stream, chunk)
            entries = [(m.log_time, m.channel_id, number, at) for at, m in found if m.channel_id in channel_ids]
            yield np.array(entries, PLACE)
        for channel in chunk.index.keys() & set(channel_ids):
            listed = spec.read_message_index(stream, chunk.index[channel], channel)
            part = np.zeros(len(listed), PLACE)
            part["time"], part["channel"], part["chunk"] = listed["time"], channel, number
            part["offset"] = listed["offset"]
            yield part

    def _messages_by_time(self, stream: BinaryIO, chunks: list[Chunk], ids: set[int]) -> Iterator[RawMessage]:
        """Merge chunks by time; each is read when its first time is due, so that memory holds only overlapping ones."""
        order = itertools.count()
        heap: list[tuple[int, int, Chunk | RawMessage]] = []
        for chunk in chunks:
            heapq.heappush(heap, (chunk.start_ns, next(order), chunk))
        while heap:
            _, _, item = heapq.heappop(heap)
            if isinstance(item, RawMessage):
                yield item
                continue
            for message in self._chunk_messages(stream, item, ids):
                heapq.heappush(heap, (message.log_time, next(order), message))

    def _chunk_messages(self, stream: BinaryIO, chunk: Chunk, ids: set[int]) -> list[RawMessage]:
        messages = [message for _, message in self._read_messages(stream, chunk)]
        return [message for message in messages or _list_unreadable(stream, chunk) if self._takes(ids, message)]

    def _takes(self, ids: set[int], message: RawMessage) -> bool:
        if message.channel_id not in self.channels:
            self.note(f"messages of channel {message.channel_id}, which nothing describes, are left out")
            return False
        return message.channel_id in ids

    def _read_messages(self, stream: BinaryIO, chunk: Chunk) -> list[tuple[int, RawMessage]]:
        """(offset in the chunk, message) of each complete message of a chunk; damage is noted."""
        try:
            records = spec.split_records(read_chunk(stream, chunk), lenient=not chunk.whole)
            found = [record for record in records if record.opcode == spec.OP_MESSAGE]
            return [(record.offset, read_message(record.contents)) for record in found]
        except spec.UNPACK_ERRORS as error:
            self.note(chunk.describe(error))
            return []

    def _loose_messages(self, stream: BinaryIO, ids: set[int]) -> Iterator[RawMessage]:
        end = os.fstat(stream.fileno()).st_size
        for opcode, offset, length in walk_records(stream, self.note):
            if opcode == spec.OP_CHUNK:
                there = min(RECORD.size + length, end - offset)
                chunk = Chunk(offset, there, 0, 0, there == RECORD.size + length)
                yield from self._chunk_messages(stream, chunk, ids)
            elif opcode == spec.OP_MESSAGE and spec.MESSAGE_HEAD.size <= length <= end - offset - RECORD.size:
                stream.seek(offset + RECORD.size)
                message = read_message(memoryview(stream.read(length)))
                if self._takes(ids, message):
                    yield message


def _list_unreadable(stream: BinaryIO, chunk: Chunk) -> Iterator[RawMessage]:
    """The messages of a damaged chunk that its index lists, without data."""
    for channel, offset in chunk.index.items():
        with contextlib.suppress(ValueError):
            for time_ns in spec.read_message_index(stream, offset, channel)["time"].tolist():
                yield RawMessage(channel, 0, time_ns, 0, memoryview(b""), unreadable=True)


@lru_cache(CACHED_CHUNKS)
def _cached_records(path: Path, written_ns: int, chunk: Chunk) -> memoryview:
    """The unpacked records of a chunk; cached, because windows and streams share chunks."""
    with path.open("rb") as stream:
        return read_chunk(stream, chunk)
