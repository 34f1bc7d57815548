"""Maps tokens to the symbols that the range coder codes, for plain FSQ tokens and for those of refining tokenizers."""

import math
from collections.abc import Sequence

import numpy as np

from streamtok.coding.layout import Digits
from streamtok.coding.range_coder import RangeDecoder

OLDEST = 8  # refinements of a cell in a row; more are counted as this many
Cells = slice | np.ndarray


class Alphabet:
    """Tokens of FSQ: one symbol for each group of `digits`, with `sizes` values. `levels` are those of headers."""

    def __init__(self, levels: Sequence[int], first: tuple[int, ...] = ()):
        self.digits = Digits((*first, *levels), tuple(range(1, 1 + len(first))))
        self.sizes = self.digits.sizes
        self.symbols = Digits(self.sizes)
        self.levels = tuple(levels)
        self.codes = math.prod(levels)

    def split(self, tokens: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Tokens (...), and the symbols of the grid before (..., groups) -> their symbols, int64 (..., groups)."""
        return self.symbols.split(tokens)

    def join(self, symbols: np.ndarray) -> np.ndarray:
        """Symbols (n, groups) -> tokens int64 (n,)."""
        return self.symbols.join(symbols)

    def start_symbols(self, before: np.ndarray) -> np.ndarray:
        """Initial symbols (..., groups), right where nothing is coded for a cell; `fill_in` fills in the others."""
        return np.zeros(before.shape, np.int64)

    def find_coded_cells(self, group: int, symbols: np.ndarray) -> Cells:
        """Index of the cells whose symbol of this group is coded. `symbols` (n, groups): earlier groups are known."""
        return slice(None)

    def to_values(self, group: int, symbols: np.ndarray) -> np.ndarray:
        """The coded values, below `sizes[group]`, of symbols (n,) of a group."""
        return symbols

    def fill_in(self, group: int, values: np.ndarray, cells: Cells, symbols: np.ndarray) -> None:
        """Fill in a group of symbols (n, groups) from the values decoded for its coded cells."""
        symbols[cells, group] = values

    def word_intervals(self, tokens: np.ndarray, symbols: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Intervals for `encode_range`, int32 (3, any), of what symbols (n, groups) leave open of tokens (n,)."""
        return np.empty((3, 0), np.int32)

    def decode_words(self, decoder: RangeDecoder, tokens: np.ndarray, symbols: np.ndarray, before: np.ndarray) -> None:
        """Decode what the symbols (n, groups) leave open, and write it into tokens (n,)."""


class RefiningAlphabet(Alphabet):
    """Tokens of a refining tokenizer: FSQ tokens redraw a cell; those above them are codewords, which refine it.

    The first symbol is the cell's age: how often in a row it was refined, 0 if it is redrawn; one bit of it is coded.
    The other symbols are those of the last FSQ token, coded where the cell is redrawn. Codewords follow the symbols of
    the whole grid, with frequencies by the age before, since neighbours hardly predict them. `words` (OLDEST + 2,
    codewords) uint16 has them, all above 0; its last row is for cells without an age. ValueError for other tables.
    """

    def __init__(self, levels: Sequence[int], words: np.ndarray):
        super().__init__(levels, (OLDEST + 1,))
        if len(words) != OLDEST + 2 or words.dtype != np.uint16 or not words.all():
            raise ValueError(f"words {list(words.shape)} of {words.dtype}: expected uint16, {OLDEST + 2} rows above 0")
        self.sizes = (2, *self.sizes[1:])
        self._content, self._drawn = self.codes, Digits(self.sizes[1:])
        self.codes += words.shape[1]
        self.levels = (self.codes,)
        self._up_to = words.cumsum(1, dtype=np.int32)
        self._words = words.astype(np.int32)

    def split(self, tokens: np.ndarray, before: np.ndarray) -> np.ndarray:
        symbols, redrawn = self.start_symbols(before), tokens < self._content
        symbols[redrawn, 0] = 0
        symbols[redrawn, 1:] = self._drawn.split(tokens[redrawn])
        return symbols

    def join(self, symbols: np.ndarray) -> np.ndarray:
        return self._drawn.join(symbols[:, 1:])

    def start_symbols(self, before: np.ndarray) -> np.ndarray:
        symbols = before.astype(np.int64)
        symbols[..., 0] = np.where(symbols[..., 0] > OLDEST, 1, np.minimum(symbols[..., 0] + 1, OLDEST))
        return symbols

    def find_coded_cells(self, group: int, symbols: np.ndarray) -> Cells:
        return np.flatnonzero(symbols[:, 0] == 0) if group else slice(None)

    def to_values(self, group: int, symbols: np.ndarray) -> np.ndarray:
        return symbols if group else np.minimum(symbols, 1)

    def fill_in(self, group: int, values: np.ndarray, cells: Cells, symbols: np.ndarray) -> None:
        if group:
            super().fill_in(group, values, cells, symbols)
        else:
            symbols[:, 0] *= values

    def word_intervals(self, tokens: np.ndarray, symbols: np.ndarray, before: np.ndarray) -> np.ndarray:
        cells = np.flatnonzero(symbols[:, 0])
        words, ages = tokens[cells].astype(np.int64) - self._content, before[cells, 0]
        own = self._words[ages, words]
        return np.stack([self._up_to[ages, words] - own, own, self._up_to[ages, -1]])

    def decode_words(self, decoder: RangeDecoder, tokens: np.ndarray, symbols: np.ndarray, before: np.ndarray) -> None:
        cells = np.flatnonzero(symbols[:, 0])
        tokens[cells] = self._content + decoder.decode(self._up_to, before[cells, 0])


def make_alphabet(levels: Sequence[int], words: np.ndarray | None) -> Alphabet:
    """The alphabet of FSQ with `levels`; a refining tokenizer also has `words` (ages, codewords)."""
    return Alphabet(levels) if words is None else RefiningAlphabet(levels, words)
