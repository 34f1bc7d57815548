"""The token grids that a coder is trained on: split into symbols, and drawn in batches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from streamtok.coding.alphabet import OLDEST, Alphabet, RefiningAlphabet
from streamtok.training.coder_tokens import Epoch

GRIDS = 3  # per batch, all of one file
ALONE = 0.1  # share of grids coded without their past, as keyframes and `independent` grids are
WORDS = 60_000  # approximate sum of the codewords' frequencies


@dataclass(frozen=True)
class CoderBatch:
    """Grids of height x width cells, and the three before each, newest first: symbols int64 (B, h * w, groups)."""

    now: Tensor
    past: tuple[Tensor, Tensor, Tensor]
    height: int
    width: int


@dataclass(frozen=True)
class FileGrids:
    """All grids of one file and size, as tokens (n, h * w) and as symbols (n, h * w, groups) uint8.

    `place` (n,) is each grid's index in its epoch.
    """

    tokens: np.ndarray
    symbols: np.ndarray
    place: np.ndarray
    size: tuple[int, int]

    def draw(self, rng: np.random.Generator, alphabet: Alphabet) -> CoderBatch:
        """Draw GRIDS grids, each with the three before it."""
        chosen = rng.integers(len(self.place), size=GRIDS)
        place = np.where(rng.random(GRIDS) < ALONE, 0, self.place[chosen])

        def back(steps: int) -> np.ndarray:
            there = (place >= steps)[:, None, None]
            return np.where(there, self.symbols[chosen - steps], alphabet.symbols.none).astype(np.int64)

        one, two, three = (back(steps) for steps in (1, 2, 3))
        now = torch.from_numpy(alphabet.split(self.tokens[chosen], one))
        past = torch.from_numpy(one), torch.from_numpy(two), torch.from_numpy(three)
        return CoderBatch(now, past, *self.size)


def join_files(alphabet: Alphabet, epochs: Sequence[Epoch]) -> list[FileGrids]:
    """The grids of epochs by file and size, in symbols of `alphabet`."""
    kinds: dict[tuple[str, tuple[int, ...]], list[np.ndarray]] = {}
    for epoch in epochs:
        kinds.setdefault((epoch.path, epoch.grids.shape[1:]), []).append(epoch.grids)
    files = []
    for (_, size), runs in kinds.items():
        symbols = np.concatenate([split_epoch(alphabet, run) for run in runs])
        tokens = np.concatenate(runs).reshape(len(symbols), -1)
        place = np.concatenate([np.arange(len(run)) for run in runs])
        files.append(FileGrids(tokens, symbols, place, (size[0], size[1])))
    return files


def split_epoch(alphabet: Alphabet, grids: np.ndarray) -> np.ndarray:
    """Grids (T, h, w) of an epoch -> their symbols uint8 (T, h * w, groups)."""
    symbols = [np.broadcast_to(alphabet.symbols.none, (grids[0].size, len(alphabet.symbols.none)))]
    for grid in grids:
        symbols.append(alphabet.split(grid.ravel(), symbols[-1]))
    return np.stack(symbols[1:]).astype(np.uint8)


def count_words(levels: tuple[int, ...], count: int, epochs: Sequence[Epoch]) -> np.ndarray:
    """The `words` of a `RefiningAlphabet`: how often each of `count` codewords was used, uint16 (ages, count)."""
    alphabet, content = RefiningAlphabet(levels, np.ones((OLDEST + 2, count), np.uint16)), math.prod(levels)
    seen = np.full((OLDEST + 2, count), 0.5)
    for epoch in epochs:
        ages = split_epoch(alphabet, epoch.grids)[..., 0]
        before = np.concatenate([alphabet.symbols.none[:1].repeat(len(ages[0]))[None], ages[:-1]])
        words = epoch.grids.reshape(ages.shape).astype(np.int64) - content
        np.add.at(seen, (before[ages > 0], words[ages > 0]), 1)
    seen[-1] += seen[:-1].sum(0)  # without a past the age is unknown
    return np.clip(np.round(seen / seen.sum(1, keepdims=True) * WORDS), 1, WORDS).astype(np.uint16)
