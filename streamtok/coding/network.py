"""The coder's network: predicts each symbol's frequency in integer arithmetic, so that every machine agrees.

Activations are 0 to 127, weights int8 with a power-of-two scale per output. Sums stay below 2^24, which is checked on
loading. So they do not depend on summation order, threads, instructions or device (`arithmetic`). Convolutions do not
use `conv2d`: some of its algorithms are not exact.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from streamtok.coding.alphabet import Alphabet
from streamtok.coding.arithmetic import ACTIVATION_MAX, EXACT, Arithmetic
from streamtok.coding.layout import NEIGHBOURS, Phases, make_phases

EXPONENTS = 512
GRIDS_BEFORE = 3
Tensors = Mapping[str, np.ndarray]


class IntLinear:
    """y = floor((W x + b) / 2^shift): activations x (n, in) -> sums y (n, out).

    Its tensors are NAME.weight int8 (out, in), NAME.bias int32 (out,) and NAME.shift uint8 (out,), 1 to 24. Inputs may
    come in parts, cut at `cuts`, as are the weights `parts` (in, out). ValueError if a sum could reach 2^24.
    """

    def __init__(self, arithmetic: Arithmetic, tensors: Tensors, name: str, *cuts: int):
        weight, bias, shift = (tensors[f"{name}.{part}"] for part in ("weight", "bias", "shift"))
        largest = np.abs(weight.astype(np.int64)).sum(1) * ACTIVATION_MAX + np.abs(bias.astype(np.int64))
        if largest.max() >= EXACT or not 1 <= shift.min() <= shift.max() <= 24:
            raise ValueError(f"{name}: sums of up to {largest.max()}, expected less than 2^24 and shifts of 1 to 24")
        self.outputs, self.inputs = weight.shape
        self.parts = [arithmetic.scale(part, shift) for part in np.split(weight.T, cuts)]
        self._arithmetic, self._shift = arithmetic, shift.astype(np.int32)
        self._bias = arithmetic.scale(bias, shift)
        self._column = self._bias[:, None], self._shift[:, None]

    def __call__(self, *x: np.ndarray) -> np.ndarray:
        """y (n, out) for x (n, in) given in parts; parts left out at the end are zero."""
        y, *more = (self._arithmetic.multiply(*pair) for pair in zip(x, self.parts, strict=False))
        for product in more:
            y += product
        return self._arithmetic.divide(y, self._bias, self._shift)

    def by_output(self, x: np.ndarray) -> np.ndarray:
        """As a call, but x is one part and y is (out, n)."""
        y = self._arithmetic.multiply(self.parts[0].T, x.T)
        return self._arithmetic.divide(y, *self._column)


@dataclass(frozen=True)
class Glance:
    """What the grids before tell of a grid; cells are in the coding order of `phases`.

    `features` (n, C) go into `mix`, whose output `bias` (hidden,) is added to, the same for all cells. `heads` (n,
    groups * H) are added to the heads. `before` (n, groups) are the symbols of the grid before.
    """

    phases: Phases
    features: np.ndarray
    heads: np.ndarray
    bias: np.ndarray
    before: np.ndarray


class CoderNetwork:
    """Predicts symbol frequencies from the three grids before, the known neighbours and the cell's earlier symbols.

    `tensors` has three int16 tables with a row for each pair of digits, taken from two grids:

    - `past` (rows, E + H): 1 and 2 grids before
    - `older` (rows, F): 2 and 3 grids before
    - `known` (rows, K + groups * H): this grid and the one before; its last part adds to the heads of later groups

    The layers are `conv.0` and `conv.1` (3x3, nine taps row by row) and `mean`. Each phase p has `mix.p`, `hidden.p`,
    `heads.p` and, for each group g, `symbols.p.g`. `exponential` is int32 (512,): a frequency by logits below the top.
    """

    def __init__(self, alphabet: Alphabet, tensors: Tensors, arithmetic: Arithmetic):
        digits, self.symbols = alphabet.digits, alphabet.symbols
        self.sums, self.arithmetic = arithmetic.sums, arithmetic
        self._exponential = tensors["exponential"]
        self._conv = [IntLinear(arithmetic, tensors, f"conv.{n}") for n in range(2)]
        self._mean = IntLinear(arithmetic, tensors, "mean")
        phases, groups = range(len(NEIGHBOURS)), range(len(digits.sizes))
        features = self._conv[1].outputs + self._conv[0].inputs // 9
        self._mix = [IntLinear(arithmetic, tensors, f"mix.{phase}", features) for phase in phases]
        self._hidden, self._heads = (
            [IntLinear(arithmetic, tensors, f"{name}.{phase}") for phase in phases] for name in ("hidden", "heads")
        )
        self._logits = [
            [IntLinear(arithmetic, tensors, f"symbols.{phase}.{group}") for group in groups] for phase in phases
        ]
        self.head = self._logits[0][0].inputs
        tables = [tensors[name] for name in ("past", "older", "known")]
        self._check(alphabet, tables)
        rows = [digits.join_table(table.astype(np.int32)) for table in tables]
        most = len(groups) * max(int(np.abs(row).max()) for row in rows)
        past, self._older, known = (arithmetic.table(row, most) for row in rows)
        self._seen, self._own = (np.ascontiguousarray(part) for part in np.split(past, [-self.head], 1))
        self.known_width = known.shape[1] - len(groups) * self.head
        self._around = np.ascontiguousarray(known[:, : self.known_width])
        self._later = self._split_later(known)

    def _check(self, alphabet: Alphabet, tables: list[np.ndarray]) -> None:
        digits, rows = alphabet.digits, [len(table) for table in tables]
        sizes = [layer.outputs for layer in self._logits[0]]
        if rows != [digits.rows[-1]] * 3 or sizes != list(alphabet.sizes) or len(self._exponential) != EXPONENTS:
            raise ValueError(f"tables of {rows} rows and symbols {sizes} do not fit levels {list(alphabet.levels)}")

    def _split_later(self, known: np.ndarray) -> list[np.ndarray]:
        """Per group, the table (rows of the group, later groups * H) that its symbols add to later heads."""
        later = []
        for group, (first, last) in enumerate(itertools.pairwise(self.symbols.rows)):
            start = self.known_width + (group + 1) * self.head
            if known[first:last, self.known_width : start].any():
                raise ValueError(f"known: a digit of group {group} says something to a head that is not later")
            later.append(np.ascontiguousarray(known[first:last, start:]))
        return later

    def look_back(self, past: tuple[np.ndarray, ...], height: int, width: int) -> Glance:
        """Summarize the past: symbols (h * w, groups) of up to three grids before, newest first, in coding order."""
        phases, count = make_phases(height, width), height * width
        if len(past) < GRIDS_BEFORE:
            none = np.broadcast_to(self.symbols.none, (count, len(self.symbols.levels)))
            past = (*past, none, none, none)[:GRIDS_BEFORE]
        one, two, three = past
        rows = self.symbols.pairs(one, two)
        seen, older = _sum_rows(self._seen, rows), _sum_rows(self._older, self.symbols.pairs(two, three))
        wide = narrow = self.arithmetic.activate(np.concatenate([seen, older], 1))
        for conv in self._conv:
            padded = np.zeros((phases.padded, wide.shape[1]), wide.dtype)
            padded[phases.inside] = wide
            wide = self.arithmetic.activate(conv(_gather(padded, phases.nine)))
        parts = wide.reshape(height, width, -1).sum(int(width < height), self.sums)  # short sums: exact in float32
        mean = self.arithmetic.activate(parts.sum(0, np.float64, keepdims=True) // count)
        heads = self._own.take(rows.ravel(), 0).reshape(count, -1)
        return Glance(phases, np.concatenate([wide, narrow], 1), heads, self._mean(mean)[0], one)

    def heads(self, phase: int, glance: Glance, known: np.ndarray) -> np.ndarray:
        """The heads of a phase's cells (cells, groups * H), before `say_later` adds the cells' own symbols."""
        cells = slice(*glance.phases.cuts[phase : phase + 2])
        near = [_gather(known, glance.phases.neighbours[phase])] if phase else []  # the first has no known neighbours
        x = self._mix[phase](glance.features[cells], *near)
        x += glance.bias
        x = self._hidden[phase](self.arithmetic.activate(x))
        x = self._heads[phase](self.arithmetic.activate(x))
        x += glance.heads[cells]
        return x

    def say_around(self, now: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Activations (n, K) that known symbols (n, groups), and those of the grid before, pass to neighbours."""
        return self.arithmetic.activate(_sum_rows(self._around, self.symbols.pairs(now, before)))

    def say_later(self, group: int, now: np.ndarray, before: np.ndarray, heads: np.ndarray) -> None:
        """Add a group's symbols (n,), with those of the grid before, to the heads (n, groups * H) of later groups."""
        rows = now * (self.symbols.levels[group] + 1) + before
        heads[:, (group + 1) * self.head :] += self._later[group].take(rows, 0)

    def logits(self, phase: int, group: int, heads: np.ndarray) -> np.ndarray:
        """The logits (symbols, n) of a group's symbols in a phase's cells, from their heads (n, groups * H)."""
        own = heads[:, group * self.head : (group + 1) * self.head]
        return self._logits[phase][group].by_output(self.arithmetic.activate(own))

    def frequencies(self, logits: np.ndarray) -> np.ndarray:
        """Logits (symbols, n), which are overwritten -> frequencies of the symbols, int32 of the same shape."""
        rows = np.subtract(logits.max(0), logits, out=logits)
        return self.arithmetic.look_up(self._exponential, np.minimum(rows, EXPONENTS - 1, out=rows))

    def blank(self, phases: Phases) -> np.ndarray:
        """What `say_around` gives before any cell is coded: zeros (padded cells, K)."""
        return np.zeros((phases.padded, self.known_width), self.arithmetic.activation)


def _gather(padded: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Gather and concatenate k cells of a padded grid for each of n: (padded cells, C), (n, k) -> (n, k * C)."""
    return padded.take(cells, 0).reshape(len(cells), cells.shape[1] * padded.shape[1])


def _sum_rows(table: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Sum k rows of a table (rows, W) for each of n: indices (n, k) -> (n, W)."""
    total = table.take(rows[:, 0], 0)
    for column in rows.T[1:]:
        total += table.take(column, 0)
    return total
