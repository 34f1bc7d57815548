"""Measures how well a codebook is used, and the entropy of tokens in bits."""

import math
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from streamtok.coding.coder import FRESH, TokenCoder
from streamtok.coding.layout import Digits
from streamtok.measures import entropy_bits


@dataclass
class CodeCounts:
    """Counts the tokens of many clips: how many codes occur, and the entropy of their pooled histogram.

    The entropy is the plug-in estimate from counts, in bits per token. It cannot exceed log2 of the number of tokens
    seen, so only sets of about the same size compare.
    """

    codebook_size: int
    levels: tuple[int, ...] = ()  # of an FSQ codebook, to report the use of each level
    counts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros(self.codebook_size, np.int64)

    def add(self, indices: Tensor) -> None:
        """Count tokens of any shape (..., h, w), of any integer dtype; ValueError for one outside the codebook."""
        flat = indices.detach().cpu().long().flatten().numpy()
        outside = flat[(flat < 0) | (flat >= self.codebook_size)]
        if outside.size:
            raise ValueError(f"token {outside[0]} is outside the codebook 0..{self.codebook_size - 1}")
        self.counts += np.bincount(flat, minlength=self.codebook_size)

    def summary(self) -> dict:
        """`tokens`, `codes_used`, `entropy_bits`, `bits_per_token` (uncoded), and for FSQ the shares `levels_used`."""
        out: dict[str, object] = {
            "tokens": int(self.counts.sum()),
            "codebook_size": self.codebook_size,
            "codes_used": int((self.counts > 0).sum()),
            "entropy_bits": entropy_bits(self.counts),
            "bits_per_token": math.log2(self.codebook_size),
        }
        if self.levels and math.prod(self.levels) == self.codebook_size:
            grid = self.counts.reshape(self.levels[::-1])  # the first level varies fastest
            axes = range(grid.ndim)
            sums = [grid.sum(axis=tuple(other for other in axes if other != axis)) for axis in reversed(axes)]
            out["levels_used"] = [(counts / max(1, self.counts.sum())).round(4).tolist() for counts in sums]
        return out


@dataclass
class Predictability:
    """Measures how predictable tokens are from the token of the same cell one grid before, pooled over many clips.

    Counts are of the judged tokens themselves, so the entropies are lower than an adaptive coder reaches. `coder` is
    the tokenizer's.

    Tokens of a refining tokenizer have `refinement` values above those of `levels`. They are counted in three parts:
    which of them refine, the digits of those that do not, and the codewords of those that do.
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
        """Count one clip's tokens (..., T', h, w). Each grid follows the one before it, for images (not `video`) none.

        Returns `coded_bits`, the coder's bits per token, if there is a coder.
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
        """Count a grid (h, w), given the digits that cells were last drawn with (h, w, D) and whether their last tokens
        refined (h, w) bool -> both after this grid."""
        refines = grid >= self._content
        digits = np.where(refines[..., None], held, self._digits.split(grid))
        for place, counts in enumerate(self._pairs):
            np.add.at(counts, (digits[~refines, place], held[~refines, place]), 1)
        np.add.at(self._kinds, (refines.astype(int).ravel(), before.astype(int).ravel()), 1)
        self._words += np.bincount(grid[refines] - self._content, minlength=self.refinement)
        return digits, refines

    def summary(self) -> dict[str, float]:
        """`order_0_bits`: entropy of each part by itself; `last_grid_bits`: given the same part one grid before.

        Both are in bits per token. Digits are given those that the cell was last drawn with, codewords nothing.
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
