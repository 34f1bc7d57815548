"""Token grids of one stream, and what gives them by number: a track. Where something is missing between them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from streamtok.measures import GAP_STEPS

BLOCK = 256  # grids that are in memory at a time


@dataclass(frozen=True)
class Grids:
    """Consecutive grids of one stream, as they were read.

    tokens (n, h, w) uint16 or uint32, (n, C, h, w) float16; the others (n,), `keyframe` bool, the rest int64: `epoch`,
    `first_id` and `last_id` the frames that a group spans, `frames` how many it has, `dropped` how many the encoder
    missed since the group before, `capture_ns` the time of its last frame on the clock that took it, `time_ns` the same
    on the clock of all the drive (UTC where that is known), `session` counts restarts of the node that sent them.
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

    def follows(self) -> np.ndarray:
        """(n,) bool: whether each grid goes on where the one before it ended; the first one counts as yes."""
        on = (self.first_id[1:] == self.last_id[:-1] + 1) & (self.session[1:] == self.session[:-1])
        return np.concatenate([[True], on])

    def decoded_from(self) -> np.ndarray:
        """(n,) int64: the keyframe (its index here) at which decoding each grid starts; -1 where a grid is missing.

        A gap that the encoder bridged is none to a decoder.
        """
        on = (self.epoch[1:] == self.epoch[:-1]) & (self.session[1:] == self.session[:-1])
        on &= np.diff(self.last_id) <= self.frames[1:] + self.dropped[1:]
        index = np.arange(len(self.keyframe))
        broken = ~self.keyframe & ~np.concatenate([[False], on])
        keyframe, missing = (np.maximum.accumulate(np.where(at, index, -1)) for at in (self.keyframe, broken))
        return np.where(keyframe > missing, keyframe, -1)


class Track(ABC):
    """The grids of one stream of one file. `times_ns` (n,) int64 orders them; it is on the clock of all its drive.

    `breaks` (n,) bool marks grids that follow a gap, as far as that is known without reading the grids; `gaps` tells
    all. `identity` says what must be equal in files that are used together: tokenizer, grid and dtype.
    """

    path: Path
    stream: str
    times_ns: np.ndarray
    breaks: np.ndarray
    identity: dict[str, Any]
    meta: dict[str, Any]

    def __len__(self) -> int:
        return len(self.times_ns)

    @property
    def file(self) -> str:
        """The file's name with that of its folder, which names the drive: what exports say of where tokens are from."""
        return "/".join(self.path.absolute().parts[-2:])

    def gaps(self) -> np.ndarray:
        """(n,) bool: all grids that follow a gap, the first one too; may read the whole file."""
        return self.breaks | ~headers(self).follows()

    @abstractmethod
    def read(self, indices: np.ndarray) -> Grids:
        """The grids of `indices` (n,), rising; reads those from disk and nothing else."""


def blocks(track: Track, size: int = BLOCK) -> Iterator[Grids]:
    """All grids of a track in order, so many at a time."""
    for first in range(0, len(track), size):
        yield track.read(np.arange(first, min(first + size, len(track))))


def headers(track: Track) -> Grids:
    """All that is known of the grids of a track but `tokens`, which is (n, 0); reads all of them."""
    read = [replace(grids, tokens=np.zeros((len(grids.tokens), 0), grids.tokens.dtype)) for grids in blocks(track)]
    names = [field.name for field in fields(Grids)]
    return Grids(**{name: np.concatenate([getattr(grids, name) for grids in read]) for name in names})


def part(grids: Grids, which: slice | np.ndarray) -> Grids:
    """Some of the grids."""
    return Grids(**{field.name: getattr(grids, field.name)[which] for field in fields(Grids)})


def time_jumps(times_ns: np.ndarray) -> np.ndarray:
    """(n,) bool: the first grid, and those after more than `GAP_STEPS` usual steps or a step back."""
    steps = np.diff(times_ns)
    usual = np.median(steps) if len(steps) else 0
    return np.concatenate([[True], (steps > GAP_STEPS * usual) | (steps <= 0)])
