"""Token grids of one stream, what gives them by number (a track), and where grids are missing between them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

BLOCK = 256  # grids that are in memory at a time


@dataclass(frozen=True)
class Grids:
    """Consecutive grids of one stream, as they were read.

    Attributes:
        tokens: (n, h, w) uint16 or uint32, (n, C, h, w) float16 of continuous models.
        keyframe: (n,) bool; everything below is (n,) int64.
        first_id, last_id: the frames that a group spans.
        frames: how many frames a group has.
        dropped: frames that the encoder missed since the group before.
        capture_ns: time of a group's last frame on the clock of the machine that took it.
        time_ns: the same on the clock of the whole drive, UTC where that is known.
        session: counts restarts of the node that sent them.
    """

    tokens: np.ndarray
    keyframe: np.ndarray
    epoch: np.ndarray
    first_id: np.ndarray
    last_id: np.ndarray
    frames: np.ndarray
    dropped: np.ndarray
    capture_ns: np.ndarray
    time_ns: np.ndarray
    session: np.ndarray

    def find_gaps(self) -> np.ndarray:
        """(n,) bool: the first grid, and those that do not go on where the one before them ended."""
        return find_lost_frames(self.first_id, self.last_id) | find_changes(self.session)

    def find_keyframes(self) -> np.ndarray:
        """(n,) int64: index of the keyframe at which decoding each grid starts; -1 where a grid between is missing.

        A decoder goes on across a gap that the encoder bridged.
        """
        on = (self.epoch[1:] == self.epoch[:-1]) & (self.session[1:] == self.session[:-1])
        on &= np.diff(self.last_id) <= self.frames[1:] + self.dropped[1:]
        index = np.arange(len(self.keyframe))
        broken = ~self.keyframe & ~np.concatenate([[False], on])
        keyframe, missing = (np.maximum.accumulate(np.where(at, index, -1)) for at in (self.keyframe, broken))
        return np.where(keyframe > missing, keyframe, -1)


class Identity(TypedDict):
    """What must be equal in files that are used together: the tokenizer's fingerprint, and a grid's shape and dtype."""

    tokenizer: str | None
    grid: tuple[int, ...]
    dtype: str


class Track(ABC):
    """The grids of one stream of one file.

    Attributes:
        times_ns: (n,) int64, which orders the grids; on the clock of the whole drive.
        breaks: (n,) bool, grids that follow a gap, as far as that is known without reading; `find_gaps` knows all.
        meta: what the file says of the stream.
    """

    path: Path
    stream: str
    times_ns: np.ndarray
    breaks: np.ndarray
    identity: Identity
    meta: dict[str, Any]

    def __len__(self) -> int:
        return len(self.times_ns)

    @property
    def file(self) -> str:
        """The file's name with that of its folder, which names the drive; exports say it of every grid."""
        return "/".join(self.path.absolute().parts[-2:])

    def find_gaps(self) -> np.ndarray:
        """(n,) bool: all grids that follow a gap, the first one too; may read the whole file."""
        return self.breaks | read_headers(self).find_gaps()

    @abstractmethod
    def read(self, indices: np.ndarray) -> Grids:
        """The grids of `indices` (n,) int64, rising; reads those from disk and nothing else."""


def read_blocks(track: Track) -> Iterator[Grids]:
    """All grids of a track in order, BLOCK at a time."""
    for first in range(0, len(track), BLOCK):
        yield track.read(np.arange(first, min(first + BLOCK, len(track))))


def read_headers(track: Track) -> Grids:
    """All grids of a track without their tokens: `tokens` is (n, 0). Reads the whole track."""
    read = [replace(grids, tokens=np.zeros((len(grids.tokens), 0), grids.tokens.dtype)) for grids in read_blocks(track)]
    names = [field.name for field in fields(Grids)]
    return Grids(**{name: np.concatenate([getattr(grids, name) for grids in read]) for name in names})


def select_grids(grids: Grids, which: np.ndarray) -> Grids:
    """The grids at the indices `which` (m,) int64."""
    return Grids(**{field.name: getattr(grids, field.name)[which] for field in fields(Grids)})


def find_lost_frames(first_id: np.ndarray, last_id: np.ndarray) -> np.ndarray:
    """(n,) bool: the first grid, and those whose `first_id` (n,) does not follow the `last_id` (n,) before it."""
    return np.concatenate([[True], first_id[1:] != last_id[:-1] + 1])


def find_changes(values: np.ndarray) -> np.ndarray:
    """(n,) bool: the first of `values` (n,), and those that differ from the one before."""
    return np.concatenate([[True], values[1:] != values[:-1]])
