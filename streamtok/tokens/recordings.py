"""Random access to the token streams of recordings (MCAP), by the file's own index."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from streamtok.coding.epochs import CodedGrid, EpochReader
from streamtok.coding.library import Coders, coders_beside
from streamtok.recording.format import TOKENS, unpack_tokens
from streamtok.recording.mcap_file import McapFile
from streamtok.recording.reader import read_token_facts
from streamtok.times import find_time_jumps
from streamtok.tokens.grids import Grids, Track, find_changes
from streamtok.wire.header import Coding
from streamtok.wire.message import TokenMessage, unpack


class RecordingTrack(Track):
    """One token stream of one recording. `times_ns` is UTC; `breaks` are jumps in it and restarts of the node.

    `facts` are the recording's facts about the stream. `places` (n,) locate its messages in the file
    (`McapFile.locate`), and `runs` (n,) are the numbers of the node's sessions that sent them.
    """

    def __init__(self, file: McapFile, facts: dict[str, Any], places: np.ndarray, runs: np.ndarray) -> None:
        self.path, self.stream, self.meta = file.path, facts["stream"], facts
        self.identity = {"tokenizer": facts["tokenizer"], "grid": tuple(facts["grid"]), "dtype": facts["dtype"]}
        self.times_ns = places["time"].astype(np.int64)
        self.breaks = find_time_jumps(self.times_ns) | find_changes(runs)
        self._file, self._places, self._runs = file, places, runs
        self._coders = Coders(coders_beside(file.path)) if facts.get("compression") == "coded" else Coders()
        self._epochs = EpochReader(self._load_coded)

    def read(self, indices: np.ndarray) -> Grids:
        tokens = np.zeros((len(indices), *self.identity["grid"]), self.identity["dtype"])
        rows = np.zeros((len(indices), 7), np.int64)
        for at, index in enumerate(indices.tolist()):
            message = self._read_message(index)
            tokens[at] = self._epochs.read(index) if message.grid is None else message.grid
            header, ids = message.header, message.header.frame_ids
            rows[at] = header.keyframe, header.epoch, ids[0], ids[-1], len(ids), header.dropped, header.capture_ns[-1]
        keyframe, *others = rows.T
        columns = [keyframe.astype(bool), *others, self.times_ns[indices], self._runs[indices]]
        return Grids(tokens, *columns)  # in the order of its fields

    def _load_coded(self, index: int) -> CodedGrid:
        """Load a coded message for `EpochReader`, which also decodes the earlier grids that it depends on."""
        message = self._read_message(index)
        header, coding = message.header, message.header.coding
        if not isinstance(coding, Coding):
            raise ValueError(f"{self.path}: message {index} of {self.stream!r} is not coded, others of its epoch are")
        alone, number = header.keyframe or coding.independent, (int(self._runs[index]), header.seq)
        size = (header.grid[0], header.grid[1])
        coder = self._coders.find(coding.coder)
        return CodedGrid(bytes(message.payload), size, coding.checksum, alone, number, coder)

    def _read_message(self, index: int) -> TokenMessage:
        stored = self._file.message_at(self._places[index])
        try:
            header, payload = unpack_tokens(stored.data)
            return unpack([f"{TOKENS}{self.stream}".encode(), header, payload])
        except ValueError as error:
            raise ValueError(f"{self.path}: token message {index} of {self.stream!r} is damaged: {error}") from error


def open_recorded_tracks(path: Path, streams: Sequence[str] | None = None) -> list[Track]:
    """Open a track per stream, tokenizer and grid of a recording from its index; ValueError if it has no index."""
    file = McapFile(path)
    if not file.indexed:
        raise ValueError(f"{path} has no index ({'; '.join(file.damage)}): run `streamtok repair {path}`")
    kinds: dict[str, dict[int, dict[str, Any]]] = {}  # for each track, the facts of its channels by id
    for number, facts in read_token_facts(file).items():
        if "tokenizer" not in facts or (streams is not None and facts["stream"] not in streams):
            continue
        key = json.dumps([facts[name] for name in ("stream", "tokenizer", "grid", "dtype")])
        kinds.setdefault(key, {})[number] = facts
    tracks = [_make_track(file, channels) for channels in kinds.values()]
    return [track for track in tracks if len(track)]


def _make_track(file: McapFile, channels: dict[int, dict[str, Any]]) -> Track:
    """Make the track of one stream from its channels, {channel id: facts}; each session of the node is a run."""
    places = file.locate(channels.keys())
    sessions = list(dict.fromkeys(facts.get("session", "") for facts in channels.values()))
    runs = np.zeros(max(channels) + 1, np.int64)
    for number, facts in channels.items():
        runs[number] = sessions.index(facts.get("session", ""))
    return RecordingTrack(file, next(iter(channels.values())), places, runs[places["channel"]])
