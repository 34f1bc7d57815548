"""Token streams in recordings (MCAP): grids by number, through the file's own index."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from streamtok.tokens.grids import Grids, Track, time_jumps

CACHED_CHUNKS = 64  # of about a megabyte, for all recordings that a process reads together
RECORD = struct.Struct("<BQ")
MESSAGE_HEAD = struct.Struct("<HIQQ")
INDEX_ENTRY = np.dtype([("time", "<u8"), ("offset", "<u8")])
PLACE = np.dtype([("time", "<u8"), ("run", "<i4"), ("chunk", "<i4"), ("offset", "<u8")])
TEXT_FACTS = ("tokenizer", "dtype", "model", "session", "stream")


@dataclass(frozen=True)
class _Chunk:
    """Where a chunk's compressed records lie, and how long they are when unpacked."""

    offset: int
    length: int
    size: int
    codec: str


class RecordingTrack(Track):
    """One token stream of one recording. `times_ns` is UTC; `breaks` are jumps in it and restarts of the node.

    `places` (n,) has the fields of PLACE: for each message its time, its run (session of the node), and where it is.
    """

    def __init__(self, path: Path, facts: dict[str, Any], places: np.ndarray, chunks: list[_Chunk]) -> None:
        self.path, self.stream, self.meta = path, facts["stream"], facts
        self.identity = {"tokenizer": facts["tokenizer"], "grid": tuple(facts["grid"]), "dtype": facts["dtype"]}
        self.times_ns = places["time"].astype(np.int64)
        self.breaks = time_jumps(self.times_ns) | np.concatenate([[True], np.diff(places["run"]) != 0])
        self._places, self._chunks, self._written_ns = places, chunks, path.stat().st_mtime_ns

    def read(self, indices: np.ndarray) -> Grids:
        grid, dtype = self.identity["grid"], np.dtype(self.identity["dtype"])
        tokens = np.zeros((len(indices), *grid), dtype)
        names = ("epoch", "first_id", "last_id", "frames", "dropped", "capture_ns")
        numbers = {name: np.zeros(len(indices), np.int64) for name in names}
        keyframe = np.zeros(len(indices), bool)
        for at, index in enumerate(indices):
            message = self._message(int(index))
            header = message.header
            tokens[at], keyframe[at] = message.tokens, header.keyframe
            numbers["epoch"][at], numbers["dropped"][at] = header.epoch, header.dropped
            numbers["frames"][at] = len(header.frame_ids)
            numbers["first_id"][at], numbers["last_id"][at] = header.frame_ids[0], header.frame_ids[-1]
            numbers["capture_ns"][at] = header.capture_ns[-1]
        numbers |= {"time_ns": self.times_ns[indices], "session": self._places["run"][indices].astype(np.int64)}
        return Grids(tokens=tokens, keyframe=keyframe, **numbers)

    def _message(self, index: int) -> Any:
        from streamtok.recording.format import TOKENS, unpack_tokens
        from streamtok.wire.message import unpack

        place = self._places[index]
        records = _records(self.path, self._written_ns, self._chunks[int(place["chunk"])])
        _, length = RECORD.unpack_from(records, int(place["offset"]))
        start = int(place["offset"]) + RECORD.size
        try:
            header, payload = unpack_tokens(records[start + MESSAGE_HEAD.size : start + length])
            return unpack([f"{TOKENS}{self.stream}".encode(), header, payload])
        except ValueError as error:
            raise ValueError(f"{self.path}: token message {index} of {self.stream!r} is damaged: {error}") from error


@lru_cache(CACHED_CHUNKS)
def _records(path: Path, written_ns: int, chunk: _Chunk) -> memoryview:
    """The unpacked records of a chunk; the last few are kept, since windows and streams share them."""
    from streamtok.recording.mcap_reader import decompress

    with open(path, "rb") as file:
        file.seek(chunk.offset)
        packed = memoryview(file.read(chunk.length))
    try:
        return memoryview(decompress(chunk.codec, packed, chunk.size))
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: the chunk at byte {chunk.offset} is damaged: {error}") from error


def open_recording(path: Path, streams: Sequence[str] | None = None) -> list[Track]:
    """The token streams of a recording, without reading its chunks: a track per stream, tokenizer and grid.

    ValueError for a file without an index (it was cut off: `streamtok repair` makes one).
    """
    summary, chunks = _read_summary(path)
    kinds: dict[str, tuple[dict[str, Any], dict[int, str]]] = {}
    for channel in summary.channels.values():
        facts = _token_facts(channel)
        if facts is None or (streams is not None and facts["stream"] not in streams):
            continue
        key = json.dumps([facts[name] for name in ("stream", "tokenizer", "grid", "dtype")])
        kinds.setdefault(key, (facts, {}))[1][channel.id] = channel.metadata.get("session", "")
    tracks: list[Track] = []
    with open(path, "rb") as file:
        for facts, channels in kinds.values():
            places = _read_index(file, summary.chunk_indexes, channels)
            if len(places):
                tracks.append(RecordingTrack(path, facts, places, chunks))
    return tracks


def _read_summary(path: Path) -> tuple[Any, list[_Chunk]]:
    try:
        from mcap.exceptions import McapError
        from mcap.reader import SeekingReader
    except ImportError as error:
        raise ImportError("reading recordings needs the mcap package: pip install 'streamtok[record]'") from error
    with open(path, "rb") as file:
        try:
            summary = SeekingReader(file).get_summary()
        except (McapError, ValueError, OSError, struct.error, OverflowError) as error:
            reason = str(error) or type(error).__name__
            raise ValueError(f"{path} has no index ({reason}): run `streamtok repair {path}`") from error
    if summary is None or (summary.statistics and summary.statistics.message_count and not summary.chunk_indexes):
        raise ValueError(f"{path} has no index of its messages: run `streamtok repair {path}`")
    heads = RECORD.size + 8 + 8 + 8 + 4 + 4 + 8  # opcode and length, two times, size, checksum, codec's length, length
    chunks = [
        _Chunk(
            chunk.chunk_start_offset + heads + len(chunk.compression.encode()),
            chunk.compressed_size,
            chunk.uncompressed_size,
            chunk.compression,
        )
        for chunk in summary.chunk_indexes
    ]
    return summary, chunks


def _token_facts(channel: Any) -> dict[str, Any] | None:
    """What a channel's metadata says of its tokens; None for channels of other kinds."""
    from streamtok.recording.format import TOKENS

    if not channel.topic.startswith(TOKENS) or "tokenizer" not in channel.metadata:
        return None
    facts = {key: _value(key, text) for key, text in channel.metadata.items()}
    return facts | {"stream": channel.topic.removeprefix(TOKENS)}


def _value(key: str, text: str) -> Any:
    if key in TEXT_FACTS:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _read_index(file: BinaryIO, chunks: Sequence[Any], channels: dict[int, str]) -> np.ndarray:
    """PLACE of each message of the channels ({id: session}), in order of time; a run is a session."""
    sessions = list(dict.fromkeys(channels.values()))
    parts = list(_index_parts(file, chunks, {channel: sessions.index(name) for channel, name in channels.items()}))
    places = np.concatenate(parts) if parts else np.zeros(0, PLACE)
    # Stable, so that messages of one time stay in the order in which they were written.
    return places[np.argsort(places["time"], kind="stable")]


def _index_parts(file: BinaryIO, chunks: Sequence[Any], runs: dict[int, int]) -> Iterator[np.ndarray]:
    for number, chunk in enumerate(chunks):
        for channel, run in runs.items():
            offset = chunk.message_index_offsets.get(channel)
            if offset is None:
                continue
            file.seek(offset + RECORD.size + 2)
            size = struct.unpack("<I", file.read(4))[0]
            entries = np.frombuffer(file.read(size), INDEX_ENTRY)
            part = np.zeros(len(entries), PLACE)
            part["time"], part["offset"], part["run"], part["chunk"] = entries["time"], entries["offset"], run, number
            yield part
