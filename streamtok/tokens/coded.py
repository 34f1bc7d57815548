"""Reading the coded grids of a token file as an array."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from streamtok.coding.coder import TokenCoder
from streamtok.coding.epochs import CodedGrid, EpochReader


class CodedTokens:
    """A lazy array of tokens (N, h, w): an index, a slice or an index array decodes only the grids that it needs.

    `columns` are `coded`, `coded_start`, `grid_crc32` and `keyframe` of the file. Raises CodingError for damage.
    """

    def __init__(self, columns: Mapping[str, np.ndarray], meta: Mapping[str, Any], coder: TokenCoder):
        self.shape = (len(columns["keyframe"]), *meta["grid"])
        self.dtype = coder.dtype
        self._columns, self._coder, self._alone = columns, coder, bool(meta.get("independent"))
        self._epochs = EpochReader(self._load)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | np.integer | slice | np.ndarray) -> np.ndarray:
        """The grid (h, w) at an index, or grids (n, h, w) for a slice or an array of n indices."""
        if isinstance(index, int | np.integer):
            return self._epochs.read(range(len(self))[index])
        chosen = np.arange(len(self))[index]
        grids = [self._epochs.read(int(number)) for number in chosen]
        return np.stack(grids) if grids else np.zeros((0, *self.shape[1:]), self.dtype)

    def _load(self, index: int) -> CodedGrid:
        first, last = self._columns["coded_start"][index : index + 2]
        payload = self._columns["coded"][first:last].tobytes()
        alone = self._alone or bool(self._columns["keyframe"][index])
        checksum = int(self._columns["grid_crc32"][index])
        return CodedGrid(payload, self.shape[1:], checksum, alone, (index,), self._coder)
