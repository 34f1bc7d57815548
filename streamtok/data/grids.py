"""Token grids of one stream, and what gives them by number: a track. Runs of grids without a gap."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

JUMP = 1.5  # of the usual step between two grids: what is longer is a gap
BLOCK = 256  # grids that are in memory at a time


@dataclass(frozen=True)
class Grids:
    """Consecutive grids of one stream, as they were read.

    tokens (n, h, w) uint16 or uint32, (n, C, h, w) float16; the others (n,): `keyframe` bool, `epoch` int64,
    `first_id` and `last_id` int64 the frames that a group spans, `capture_ns` int64 the time of its last frame on the
    clock that took it, `time_ns` int64 the same on the clock of all the drive (UTC where that is known), `session`
    int64 counts restarts of the node that sent them.
    """

    tokens: np.ndarray
    keyframe: np.ndarray
    epoch: np.ndarray
    first_id: np.ndarray
    last_id: np.ndarray
    capture_ns: np.ndarray
    time_ns: np.ndarray
    session: np.ndarray

    def follows(self) -> np.ndarray:
        """(n,) bool: whether each grid goes on where the one before it ended; the first one counts as yes."""
        on = (self.first_id[1:] == self.last_id[:-1] + 1) & (self.session[1:] == self.session[:-1])
        return np.concatenate([[True], on])


class Track:
    """The grids of one stream of one file. `times_ns` (n,) int64 orders them; it is on the clock of all its drive.

    `breaks` (n,) bool marks grids that follow a gap, as far as that is known without reading the grids; `read` tells
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

    def read(self, indices: np.ndarray) -> Grids:
        """The grids of `indices` (n,), rising; reads those from disk and nothing else."""
        raise NotImplementedError


def blocks(track: Track, size: int = BLOCK) -> Iterator[Grids]:
    """All grids of a track in order, so many at a time."""
    for first in range(0, len(track), size):
        yield track.read(np.arange(first, min(first + size, len(track))))


def stretches(track: Track, size: int = BLOCK) -> Iterator[tuple[bool, np.ndarray, Grids]]:
    """All grids in order, cut at gaps: (whether these start a new stretch, their numbers, the grids)."""
    for first in range(0, len(track), size):
        # One more in front, to see whether this block goes on from the one before.
        indices = np.arange(max(0, first - 1), min(first + size, len(track)))
        grids = track.read(indices)
        follows = grids.follows()
        follows[0] = False
        skip = int(first > 0)
        cuts = sorted({skip, len(indices), *np.flatnonzero(~follows[skip:]) + skip})
        for start, end in itertools.pairwise(cuts):
            yield not follows[start], indices[start:end], part(grids, slice(start, end))


def part(grids: Grids, which: slice | np.ndarray) -> Grids:
    """Some of the grids."""
    return Grids(**{field.name: getattr(grids, field.name)[which] for field in fields(Grids)})


def time_jumps(times_ns: np.ndarray) -> np.ndarray:
    """(n,) bool: the first grid, and those that come later than `JUMP` times the usual step, or earlier than before."""
    steps = np.diff(times_ns)
    usual = np.median(steps) if len(steps) else 0
    return np.concatenate([[True], (steps > JUMP * usual) | (steps <= 0)])
