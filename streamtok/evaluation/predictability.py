"""How predictable tokens are: bits per token by the token coder, and by counts alone.

The counts are of the tokens that are judged, so both baselines are lower than any coder that has to learn them first.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from streamtok.coding.coder import FRESH, TokenCoder
from streamtok.coding.layout import Digits
from streamtok.measures import entropy_bits


@dataclass
class Predictability:
    """Pools the tokens of many clips with those at the same place before; `coder` is the tokenizer's.

    A refining tokenizer's tokens have `refinement` values above those of `levels`. Of them three things are counted:
    which refine, the digits of those that do not, and the codewords of those that do.
    """

    levels: tuple[int, ...]
    refinement: int = 0
    coder: TokenCoder | None = None
    _pairs: list[np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        self._digits, self._content = Digits(self.levels), math.prod(self.levels)
        self._pairs = [np.zeros((level, level + 1), np.int64) for level in self.levels]
        self._kinds = np.zeros((2, 2), np.int64)  # whether a token refines, and the one before it did
        self._words = np.zeros(self.refinement, np.int64)

    def add(self, indices: Tensor, video: bool) -> dict[str, float]:
        """Count one clip's tokens (..., T', h, w), whose first grid follows no other; without `video` none follows one.

        `coded_bits`: bits per token of the bytes that the coder makes of them, if there is one.
        """
        grids = indices.detach().cpu().numpy().reshape(-1, *indices.shape[-2:])
        fresh = np.broadcast_to(self._digits.none, (*grids.shape[1:], len(self.levels)))
        held, refined = fresh, np.zeros(grids.shape[1:], bool)
        for grid in grids:
            held, refined = self._count(grid, held, refined) if video else self._count(grid, fresh, refined)
        if self.coder is None:
            return {}
        past, size = FRESH, 0
        for grid in grids.astype(self.coder.dtype):
            data, after = self.coder.encode(grid, past)
            past, size = after if video else FRESH, size + len(data)
        return {"coded_bits": 8 * size / grids.size}

    def _count(self, grid: np.ndarray, held: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A grid (h, w), the digits that each cell was last drawn with (h, w, D) and whether its last token refined
        (h, w) bool -> the same two, after it."""
        refines = grid >= self._content
        digits = np.where(refines[..., None], held, self._digits.split(grid))
        for place, counts in enumerate(self._pairs):
            np.add.at(counts, (digits[~refines, place], held[~refines, place]), 1)
        np.add.at(self._kinds, (refines.astype(int).ravel(), before.astype(int).ravel()), 1)
        self._words += np.bincount(grid[refines] - self._content, minlength=self.refinement)
        return digits, refines

    def summary(self) -> dict[str, float]:
        """`order_0_bits`: the entropy of each part by itself; `last_grid_bits`: given the same part one grid before.

        In bits per token. Digits are those that the cell was last drawn with; codewords are counted by themselves.
        """
        content, refining = self._kinds.sum(1)
        alone = sum(entropy_bits(counts.sum(1)) for counts in self._pairs)
        given = sum(entropy_bits(counts.ravel()) - entropy_bits(counts.sum(0)) for counts in self._pairs)
        words = refining * entropy_bits(self._words) if refining else 0.0
        kinds = entropy_bits(self._kinds.sum(1))
        kinds_given = entropy_bits(self._kinds.ravel()) - entropy_bits(self._kinds.sum(0))
        total = max(1, content + refining)
        return {
            "order_0_bits": kinds + (content * alone + words) / total,
            "last_grid_bits": kinds_given + (content * given + words) / total,
        }
