"""Random access to coded grids in a file: each is decoded from the last keyframe on."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from streamtok.coding.coder import FRESH, CodingError, Past, TokenCoder

KEPT = 512  # decoded grids in the cache: some epochs, for datasets that read at random


@dataclass(frozen=True)
class CodedGrid:
    """One grid in a file: its bytes, its (h, w) and the CRC-32 of its tokens.

    `alone` says that it was coded without a past. The last part of `number` rises by one from grid to grid of an epoch.
    """

    payload: bytes
    size: tuple[int, int]
    checksum: int
    alone: bool
    number: tuple[int, ...]
    coder: TokenCoder


class EpochReader:
    """Reads the grids that `load` gives by index, with a cache of those decoded last."""

    def __init__(self, load: Callable[[int], CodedGrid]):
        self._load = load
        self._kept: OrderedDict[int, tuple[np.ndarray, Past, tuple[int, ...]]] = OrderedDict()

    def read(self, index: int) -> np.ndarray:
        """The tokens (h, w) of a grid. CodingError if it, or a grid that it is coded from, cannot be read."""
        for place, grid in reversed(self._unread(index)):
            past = FRESH if grid.alone else self._kept[place - 1][1]
            decoded = grid.coder.decode_checked(grid.payload, grid.size, grid.checksum, past)
            self._kept[place] = *decoded, grid.number
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(index)
        return self._kept[index][0]

    def _unread(self, index: int) -> list[tuple[int, CodedGrid]]:
        """The grids to decode for grid `index`, newest first, with their indices."""
        unread: list[tuple[int, CodedGrid]] = []
        for place in range(index, -1, -1):
            grid = None if place in self._kept else self._load(place)
            number = self._kept[place][2] if grid is None else grid.number
            if unread and unread[-1][1].number != (*number[:-1], number[-1] + 1):
                raise CodingError(f"grid {index} is coded from others before it, of which some are missing")
            if grid is None:
                return unread
            unread.append((place, grid))
            if grid.alone:
                return unread
        raise CodingError(f"grid {index} is coded from others before it, which are not in the file")
