"""How tokens split into digits and symbols, and in which order the cells of a grid are coded."""

import itertools
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

MOST_SYMBOLS = 64  # that one step of the range coder chooses from
PAD = 4  # cells around a grid: no neighbour lies further outside
_DIAGONAL = ((-1, -1), (-1, 1), (1, -1), (1, 1), (-1, -3), (-1, 3), (1, -3), (1, 3), (-3, -1), (-3, 1), (3, -1), (3, 1))
_STRAIGHT = ((-1, 0), (0, -1), (0, 1), (1, 0), (-1, -2), (-1, 2), (1, -2), (1, 2), (-2, -1), (-2, 1), (2, -1), (2, 1))
_NINE = tuple(itertools.product((-1, 0, 1), repeat=2))
_WIDE = tuple((2 * y, 2 * x) for y, x in _STRAIGHT)
NEIGHBOURS: tuple[tuple[tuple[int, int], ...], ...] = ((), _WIDE, _DIAGONAL, _STRAIGHT)
"""Per phase, the (y, x) offsets of a cell's neighbours that are known by then, in the order the network reads them."""


@dataclass(frozen=True)
class Digits:
    """Splits FSQ tokens with `levels` into digits, the first varying fastest, and joins adjacent digits to symbols.

    Digit d has `levels[d]` values; the value `levels[d]` itself means "no grid before". A symbol always begins at each
    digit in `breaks`.
    """

    levels: tuple[int, ...]
    breaks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.levels or not all(2 <= level <= MOST_SYMBOLS for level in self.levels):
            raise ValueError(f"levels {list(self.levels)}: the token coder is for FSQ of 2 to {MOST_SYMBOLS} each")

    @cached_property
    def groups(self) -> tuple[range, ...]:
        """The digits of each symbol: as many in a row as have at most MOST_SYMBOLS values together."""
        groups = [range(1)]
        for digit in range(1, len(self.levels)):
            joined = range(groups[-1].start, digit + 1)
            if digit not in self.breaks and math.prod(self.levels[d] for d in joined) <= MOST_SYMBOLS:
                groups[-1] = joined
            else:
                groups.append(range(digit, digit + 1))
        return tuple(groups)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """How many values the symbol of each group has."""
        return tuple(math.prod(self.levels[d] for d in group) for group in self.groups)

    @cached_property
    def rows(self) -> np.ndarray:
        """Where each digit's rows begin in a table of pairs, int64 (D + 1,): a row for each (a, b), with "none" too."""
        return np.cumsum([0, *((level + 1) ** 2 for level in self.levels)])

    @cached_property
    def none(self) -> np.ndarray:
        """The digits that mean "no grid before", int64 (D,)."""
        return np.array(self.levels)

    def split(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens (...) -> digits int64 (..., D), with digits outermost in memory: NumPy is slow over short rows."""
        digits, rest = np.empty((len(self.levels), *tokens.shape), np.int64), tokens.astype(np.int64)
        for digit, level in enumerate(self.levels):
            rest, dividend = rest // level, rest  # not `divmod`: NumPy vectorizes only this
            digits[digit] = dividend - rest * level
        return np.moveaxis(digits, 0, -1)

    def join(self, digits: np.ndarray) -> np.ndarray:
        """Digits (..., D) -> tokens int64 (...)."""
        return digits @ self._weights

    def spread(self, symbols: np.ndarray) -> np.ndarray:
        """Symbols (..., groups) -> digits int64 (..., D); the first digit of a group varies fastest."""
        parts = []
        for members, group, size in zip(self.groups, np.moveaxis(symbols, -1, 0), self.sizes, strict=True):
            own = Digits(self.levels[members.start : members.stop])
            parts.append(np.where((group == size)[..., None], own.none, own.split(group)))
        return np.concatenate(parts, -1)

    def join_table(self, table: np.ndarray) -> np.ndarray:
        """Turn a table of pairs of digits, (rows, W), into one of pairs of symbols: each row sums its digits' rows.

        The result has the rows of `Digits(sizes)`: symbols are the same token's digits with fewer, larger levels.
        """
        joined = []
        for members in self.groups:
            own = Digits(self.levels[members.start : members.stop])
            values = np.vstack([own.split(np.arange(math.prod(own.levels))), own.none])
            joined.append(table[self.pairs(values[:, None], values, members)].sum(2).reshape(-1, table.shape[1]))
        return np.concatenate(joined)

    def pairs(self, a: np.ndarray, b: np.ndarray, digits: range | None = None) -> np.ndarray:
        """Table rows of the pairs (a, b), each (..., D), or only those of `digits` -> int64 of that shape."""
        members = digits or range(len(self.levels))
        return a * (self.none[members.start : members.stop] + 1) + b + self.rows[members.start : members.stop]

    @cached_property
    def _weights(self) -> np.ndarray:
        return np.cumprod([1, *self.levels[:-1]])


@dataclass(frozen=True)
class Phases:
    """The order in which a grid's cells are coded: four phases, each between the cells of the earlier ones.

    `order` (n,) has the row-major indices of cells in coding order; phase p is `cuts[p]` to `cuts[p + 1]` of it. The
    other arrays have rows in that order too, and index the grid padded by PAD cells a side, of `padded` cells in all.
    `inside` (n,) are the cells themselves, `nine` (n, 9) the 3x3 around each. `neighbours[p]` (cells of phase p, 12 or
    0) are the known neighbours.
    """

    order: np.ndarray
    cuts: tuple[int, ...]
    neighbours: tuple[np.ndarray, ...]
    inside: np.ndarray
    nine: np.ndarray
    padded: int

    def restore(self, ordered: np.ndarray) -> np.ndarray:
        """Values in coding order (n, ...) -> row-major."""
        rows = np.empty_like(ordered)
        rows[self.order] = ordered
        return rows


@lru_cache(maxsize=16)
def make_phases(height: int, width: int) -> Phases:
    """The phases of a grid: (y, x) both 0 or both 2 modulo 4; the others of even y and x; of odd y and x; the rest."""
    y, x = np.mgrid[:height, :width]
    phase = np.where((y % 2 == 0) & (x % 2 == 0), 1, np.where((y % 2 == 1) & (x % 2 == 1), 2, 3))
    phase[((y % 4 == 0) & (x % 4 == 0)) | ((y % 4 == 2) & (x % 4 == 2))] = 0
    order = np.argsort(phase.ravel(), kind="stable")
    cuts = np.searchsorted(phase.ravel()[order], range(5))
    row = width + 2 * PAD
    inside = ((y + PAD) * row + x + PAD).ravel()[order]
    steps = [np.array([dy * row + dx for dy, dx in known], np.int64) for known in (*NEIGHBOURS, _NINE)]
    around = tuple(inside[cuts[p] : cuts[p + 1], None] + steps[p] for p in range(4))
    return Phases(order, tuple(cuts.tolist()), around, inside, inside[:, None] + steps[4], row * (height + 2 * PAD))
