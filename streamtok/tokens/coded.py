"""The grids of a token file that are coded, as if they were an array."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from streamtok.coding.coder import FRESH, Past, TokenCoder, grid_checksum
from streamtok.coding.epochs import CodedGrid, EpochReader
from streamtok.types import TokenGroup


class CodedTokens:
    """(N, h, w) tokens, of which one, a slice or an array of them is decoded when asked for; `shape`, `dtype` as NumPy.

    `columns` are `coded`, `coded_start`, `grid_crc32` and `keyframe` of the file. CodingError for what cannot be read.
    """

    def __init__(self, columns: Mapping[str, np.ndarray], meta: Mapping[str, Any], coder: TokenCoder):
        self.shape = (len(columns["keyframe"]), *meta["grid"])
        self.dtype = coder.dtype
        self._columns, self._coder, self._alone = columns, coder, bool(meta.get("independent"))
        self._epochs = EpochReader(self._load)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | np.integer | slice | np.ndarray) -> np.ndarray:
        """The grid (h, w) of a number, or (n, h, w) of a slice or an array of n numbers."""
        if isinstance(index, int | np.integer):
            return self._epochs.read(range(len(self))[index])
        chosen = np.arange(len(self))[index]
        grids = [self._epochs.read(int(each)) for each in chosen]
        return np.stack(grids) if grids else np.zeros((0, *self.shape[1:]), self.dtype)

    def _load(self, index: int) -> CodedGrid:
        first, last = self._columns["coded_start"][index : index + 2]
        payload = self._columns["coded"][first:last].tobytes()
        alone = self._alone or bool(self._columns["keyframe"][index])
        checksum = int(self._columns["grid_crc32"][index])
        return CodedGrid(payload, self.shape[1:], checksum, alone, (index,), self._coder)


class GroupCoder:
    """Codes the grids of one file in order; `independent`: each by itself."""

    def __init__(self, coder: TokenCoder, independent: bool):
        self.coder, self.independent, self.nbytes = coder, independent, 0
        self._past: Past = FRESH

    def encode(self, group: TokenGroup) -> tuple[bytes, int, int]:
        """The bytes of a group's grid (h, w), where they begin in its file, and the grid's checksum."""
        fresh, start = group.keyframe or self.independent, self.nbytes
        payload, self._past = self.coder.encode(group.tokens, FRESH if fresh else self._past)
        self.nbytes += len(payload)
        return payload, start, grid_checksum(group.tokens)
