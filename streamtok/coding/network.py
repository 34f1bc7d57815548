"""The network that says how likely each symbol is, in whole numbers.

Activations are 0 to 127, weights int8 with one power of two per output. Float32 carries them exactly: all that is
added up is a multiple of that power's inverse, less than 2^24 of them, which is checked on loading. So sums do not
depend on their order, on threads, instructions or devices. There is no `conv2d`: some of its algorithms are not exact.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from streamtok.coding.alphabet import Alphabet
from streamtok.coding.layout import NEIGHBOURS, Phases, phases_of

ACTIVATION_MAX = 127
EXACT = 1 << 24  # float32 holds every whole number up to it
EXPONENTS = 512
Tensors = Mapping[str, np.ndarray]


class Linear:
    """y = floor((W x + b) / 2^shift), of x (n, in) within 0..127 -> y (n, out), whole numbers in float32.

    The tensors NAME.weight int8 (out, in), NAME.bias int32 (out,) and NAME.shift uint8 (out,), 1 to 24. ValueError if a
    sum could be beyond what float32 holds exactly.
    """

    def __init__(self, tensors: Tensors, name: str):
        weight, bias, shift = (tensors[f"{name}.{part}"] for part in ("weight", "bias", "shift"))
        largest = np.abs(weight.astype(np.int64)).sum(1) * ACTIVATION_MAX + np.abs(bias.astype(np.int64))
        if largest.max() >= EXACT or not 1 <= shift.min() <= shift.max() <= 24:
            raise ValueError(f"{name}: sums of up to {largest.max()}, expected less than 2^24 and shifts of 1 to 24")
        scale = np.float32(0.5) ** shift.astype(np.float32)
        self.weight = np.ascontiguousarray((weight * scale[:, None]).T)
        self.bias = bias.astype(np.float32) * scale

    def __call__(self, x: np.ndarray) -> np.ndarray:
        y = x @ self.weight
        y += self.bias
        return np.floor(y, out=y)

    def by_output(self, x: np.ndarray) -> np.ndarray:
        """As a call, but y (out, n)."""
        y = self.weight.T @ x.T
        y += self.bias[:, None]
        return np.floor(y, out=y)


def activate(x: np.ndarray) -> np.ndarray:
    """x within 0 to 127, in place."""
    return x.clip(0, ACTIVATION_MAX, out=x)


@dataclass(frozen=True)
class Glance:
    """What the past of a grid says of it, cells in the order of `phases`.

    `features` (n, C), `heads` (n, groups * H), to be added to the heads; `bias` (hidden,), the same for all cells;
    `before` (n, groups), the symbols of the grid before.
    """

    phases: Phases
    features: np.ndarray
    heads: np.ndarray
    bias: np.ndarray
    before: np.ndarray


class Network:
    """Frequencies of symbols from the three grids before, the cells around that are known, and the symbols before.

    `tensors`: int16 tables `past` (rows, E + H) of digit pairs (1 before, 2 before), `older` (rows, F) of (2, 3 before)
    and `known` (rows, K + groups * H) of (now, 1 before), which also holds what a digit says to the heads of later
    groups; `Linear`s `conv.0`, `conv.1` (3x3, nine taps row by row), `mean`, and per phase p `mix.p`, `hidden.p`,
    `heads.p` and `symbols.p.g` of group g; `exponential` int32 (512,).
    """

    def __init__(self, alphabet: Alphabet, tensors: Tensors):
        digits = alphabet.digits
        self.symbols = alphabet.symbols
        self._exponential = tensors["exponential"]
        self._conv = [Linear(tensors, f"conv.{layer}") for layer in range(2)]
        self._taps = [np.concatenate(np.split(conv.weight, 3), 1) for conv in self._conv]  # (3 C, 3 outputs)
        self._mean = Linear(tensors, "mean")
        phases, groups = range(len(NEIGHBOURS)), range(len(digits.sizes))
        self._mix, self._hidden, self._heads = (
            [Linear(tensors, f"{name}.{phase}") for phase in phases] for name in ("mix", "hidden", "heads")
        )
        self._logits = [[Linear(tensors, f"symbols.{phase}.{group}") for group in groups] for phase in phases]
        self.head = self._logits[0][0].weight.shape[0]
        tables = [tensors[name] for name in ("past", "older", "known")]
        self._check(alphabet, tables)
        past, self._older, known = (digits.join_table(table.astype(np.float32)) for table in tables)
        self._seen, self._own = (np.ascontiguousarray(part) for part in np.split(past, [-self.head], 1))
        self.known_width = known.shape[1] - len(groups) * self.head
        self._around = np.ascontiguousarray(known[:, : self.known_width])
        self._later = self._split_later(known)

    def _check(self, alphabet: Alphabet, tables: list[np.ndarray]) -> None:
        digits, rows = alphabet.digits, [len(table) for table in tables]
        sizes = [layer.weight.shape[1] for layer in self._logits[0]]
        if rows != [digits.rows[-1]] * 3 or sizes != list(alphabet.sizes) or len(self._exponential) != EXPONENTS:
            raise ValueError(f"tables of {rows} rows and symbols {sizes} do not fit levels {list(alphabet.levels)}")

    def _split_later(self, known: np.ndarray) -> list[np.ndarray]:
        """Per group the table (rows of the group, later groups * H) of what its symbols say to later heads."""
        later = []
        for group, (first, last) in enumerate(itertools.pairwise(self.symbols.rows)):
            start = self.known_width + (group + 1) * self.head
            if known[first:last, self.known_width : start].any():
                raise ValueError(f"known: a digit of group {group} says something to a head that is not later")
            later.append(np.ascontiguousarray(known[first:last, start:]))
        return later

    def look_back(self, past: tuple[np.ndarray, ...], height: int, width: int) -> Glance:
        """`past`: the symbols (h * w, groups) of up to three grids before, the newest first."""
        phases, count = phases_of(height, width), height * width
        none = np.broadcast_to(self.symbols.none, (count, len(self.symbols.levels)))
        one, two, three = (*past, none, none, none)[:3]
        rows = self.symbols.pairs(one, two)
        seen, older = _sum_rows(self._seen, rows), _sum_rows(self._older, self.symbols.pairs(two, three))
        narrow = activate(np.concatenate([seen, older], 1))
        wide = self._convolve(self._convolve(narrow, 0, height, width), 1, height, width)
        lines = wide.reshape(height, width, -1).sum(int(width < height))  # of the shorter side: exact in float32
        mean = lines.sum(0, dtype=np.float64) // count
        features = np.concatenate([wide, narrow], 1).take(phases.order, 0)
        heads = self._own.take(rows.take(phases.order, 0).ravel(), 0).reshape(count, -1)
        return Glance(phases, features, heads, self._mean(mean.astype(np.float32)[None])[0], one[phases.order])

    def _convolve(self, x: np.ndarray, layer: int, height: int, width: int) -> np.ndarray:
        """3x3 over (h * w, C) with zeros around: three cells side by side, times the weights of all three rows."""
        channels, count, conv = x.shape[1], height * width, self._conv[layer]
        padded = np.zeros((height + 2, width + 2, channels), np.float32)
        padded[1:-1, 1:-1] = x.reshape(height, width, channels)
        cells = np.concatenate([padded[:, shift : shift + width] for shift in range(3)], 2).reshape(-1, 3 * channels)
        rows = np.split(cells @ self._taps[layer], 3, 1)
        total = rows[0][:count] + rows[1][width : width + count]
        total += rows[2][2 * width :]
        total += conv.bias
        return activate(np.floor(total, out=total))

    def around(self, phase: int, phases: Phases, known: np.ndarray) -> np.ndarray:
        """What the known neighbours of a phase's cells say: known (padded cells, K) -> (cells, 12 * K)."""
        cells, near = phases.neighbours[phase].shape
        return known.take(phases.neighbours[phase], 0).reshape(cells, near * self.known_width)

    def heads(self, phase: int, glance: Glance, known: np.ndarray) -> np.ndarray:
        """The heads of a phase's cells (cells, groups * H), but for what the cell's own digits add; may be negative."""
        cells, mix = slice(*glance.phases.cuts[phase : phase + 2]), self._mix[phase]
        features = glance.features[cells]
        x = features @ mix.weight[: features.shape[1]]
        if phase:  # the first has no known neighbours
            x += self.around(phase, glance.phases, known) @ mix.weight[features.shape[1] :]
        x += mix.bias
        x = np.floor(x, out=x)
        x += glance.bias
        x = self._heads[phase](activate(self._hidden[phase](activate(x))))
        x += glance.heads[cells]
        return x

    def say_around(self, now: np.ndarray, before: np.ndarray) -> np.ndarray:
        """What symbols that are known, (n, groups), and those of the grid before say to the cells around.

        (n, K), not yet within 0..127.
        """
        return _sum_rows(self._around, self.symbols.pairs(now, before))

    def say_later(self, group: int, now: np.ndarray, before: np.ndarray, heads: np.ndarray) -> None:
        """Add what the symbols (n,) of a group and those of the grid before say to the heads (n, groups * H)."""
        rows = now * (self.symbols.levels[group] + 1) + before
        heads[:, (group + 1) * self.head :] += self._later[group].take(rows, 0)

    def logits(self, phase: int, group: int, heads: np.ndarray) -> np.ndarray:
        """The logits of a group's symbols in cells of a phase, by their heads (n, groups * H): (symbols, n)."""
        own = heads[:, group * self.head : (group + 1) * self.head].clip(0, ACTIVATION_MAX)
        return self._logits[phase][group].by_output(own)

    def frequencies(self, logits: np.ndarray) -> np.ndarray:
        """Logits (symbols, n) -> how frequent each symbol is, int32 of the same shape."""
        return self._exponential.take((logits.max(0) - logits).astype(np.int32), mode="clip")

    def blank(self, phases: Phases) -> np.ndarray:
        """Of no cell anything is known yet: (padded cells, K)."""
        return np.zeros((phases.padded, self.known_width), np.float32)


def _sum_rows(table: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The sums of a table's rows, (n, k) of them -> (n, W)."""
    total = table.take(rows[:, 0], 0)
    for column in rows.T[1:]:
        total += table.take(column, 0)
    return total
