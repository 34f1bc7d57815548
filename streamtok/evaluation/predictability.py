"""How predictable tokens are: bits per token by the token coder, and by counts alone.

The counts are of the tokens that are judged, so both baselines are lower than any coder that has to learn them first.
"""

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from streamtok.coding.coder import FRESH, TokenCoder
from streamtok.coding.layout import Digits
from streamtok.measures import entropy_bits


@dataclass
class Predictability:
    """Pools the tokens of many clips with the tokens at the same place one grid before; `coder` is the tokenizer's."""

    levels: tuple[int, ...]
    coder: TokenCoder | None = None
    _pairs: list[np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        self._digits = Digits(self.levels)
        self._pairs = [np.zeros((level, level + 1), np.int64) for level in self.levels]

    def add(self, indices: Tensor, video: bool) -> dict[str, float]:
        """Count one clip's tokens (..., T', h, w), whose first grid has none before it; without `video` no grid has.

        `coded_bits`: bits per token of the bytes that the coder makes of them, if there is one.
        """
        grids = indices.detach().cpu().numpy().reshape(-1, *indices.shape[-2:])
        digits = self._digits.split(grids)
        before = np.broadcast_to(self._digits.none, digits.shape).copy()
        if video:
            before[1:] = digits[:-1]
        for place, counts in enumerate(self._pairs):
            np.add.at(counts, (digits[..., place].ravel(), before[..., place].ravel()), 1)
        if self.coder is None:
            return {}
        past, size = FRESH, 0
        for grid in grids.astype(self.coder.dtype):
            data, after = self.coder.encode(grid, past)
            past, size = after if video else FRESH, size + len(data)
        return {"coded_bits": 8 * size / grids.size}

    def summary(self) -> dict[str, float]:
        """`order_0_bits`: the entropy of each digit by itself; `last_grid_bits`: given the digit one grid before."""
        alone = sum(entropy_bits(counts.sum(1)) for counts in self._pairs)
        given = sum(entropy_bits(counts.ravel()) - entropy_bits(counts.sum(0)) for counts in self._pairs)
        return {"order_0_bits": alone, "last_grid_bits": given}
