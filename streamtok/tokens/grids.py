"""Token grids of one stream as columns (`Grids`), random access to them (`Track`), and gaps between them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

BLOCK = 256  # grids in memory at a time


@dataclass(frozen=True)
class Grids:
    """Consecutive grids of one stream, as they were read.

    Attributes:
        tokens: (n, h, w) uint16 or uint32, (n, C, h, w) float16 of continuous models.
        keyframe: (n,) bool; everything below is (n,) int64.
        first_id, last_id: ids of a group's first and last frame.
        frames: number of frames of a group.
        dropped: frames that the encoder missed since the previous group.
        capture_ns: time of a group's last frame on the clock of the capturing machine.
        time_ns: the same on the clock of the whole drive, UTC if that is known.
        session: number of the node's session, which counts its restarts.
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
        """Which grids follow a gap, the first included: they do not start where the previous one ended. bool (n,)."""
        return find_lost_frames(self.first_id, self.last_id) | find_changes(self.session)

    def find_keyframes(self) -> np.ndarray:
        """The index of the keyframe from which each grid is decoded; -1 if a grid in between is missing. int64 (n,).

        A gap that the encoder bridged does not count.
        """
        on = (self.epoch[1:] == self.epoch[:-1]) & (self.session[1:] == self.session[:-1])
        on &= np.diff(self.last_id) <= self.frames[1:] + self.dropped[1:]
        index = np.arange(len(self.keyframe))
        broken = ~self.keyframe & ~np.concatenate([[False], on])
        keyframe, missing = (np.maximum.accumulate(np.where(at, index, -1)) for at in (self.keyframe, broken))
        return np.where(keyframe > missing, keyframe, -1)


class Identity(TypedDict):
    """What files that are used together must share: the tokenizer's fingerprint, and a grid's shape and dtype."""

    tokenizer: str | None
    grid: tuple[int, ...]
    dtype: str


class Track(ABC):
    """Random access to the grids of one stream in one file.

    Attributes:
        times_ns: (n,) int64, the grids' times in order, on the clock of the whole drive.
        breaks: (n,) bool, grids that follow a gap, as far as the index shows; `find_gaps` finds all.
        meta: the file's facts about the stream.
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
        """The file's name with its folder's, which names the drive; exports give it for every grid."""
        return "/".join(self.path.absolute().parts[-2:])

    def find_gaps(self) -> np.ndarray:
        """All grids that follow a gap, the first included, bool (n,); may read the whole file."""
        return self.breaks | read_headers(self).find_gaps()

    @abstractmethod
    def read(self, indices: np.ndarray) -> Grids:
        """Read the grids at `indices` (n,) int64, rising, and no others."""


def read_blocks(track: Track) -> Iterator[Grids]:
    """Yield all grids of a track in order, BLOCK at a time."""
    for first in range(0, len(track), BLOCK):
        yield track.read(np.arange(first, min(first + BLOCK, len(track))))


def read_headers(track: Track) -> Grids:
    """Read all grids of a track but keep no tokens: `tokens` is (n, 0)."""
    read = [replace(grids, tokens=np.zeros((len(grids.tokens), 0), grids.tokens.dtype)) for grids in read_blocks(track)]
    names = [field.name for field in fields(Grids)]
    return Grids(**{name: np.concatenate([getattr(grids, name) for grids in read]) for name in names})


def select_grids(grids: Grids, which: np.ndarray) -> Grids:
    """The grids at the indices `which` (m,) int64."""
    return Grids(**{field.name: getattr(grids, field.name)[which] for field in fields(Grids)})


def find_lost_frames(first_id: np.ndarray, last_id: np.ndarray) -> np.ndarray:
    """Which grids do not start right after the previous one, by frame ids (n,); the first is one. bool (n,)."""
    return np.concatenate([[True], first_id[1:] != last_id[:-1] + 1])


def find_changes(values: np.ndarray) -> np.ndarray:
    """Which of `values` (n,) differ from the previous one, the first included; bool (n,)."""
    return np.concatenate([[True], values[1:] != values[:-1]])
