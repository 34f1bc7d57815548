"""Token coders that nobody has trained: their bytes are as exact as those of trained ones."""

import math
import zlib
from functools import cache

import numpy as np
import torch

from streamtok.coding.alphabet import OLDEST
from streamtok.coding.coder import FRESH, TokenCoder
from streamtok.training.coder_model import CoderModel

LEVELS = (8, 8, 8, 5, 5, 5)


@cache
def make_coder(
    levels: tuple[int, ...] = LEVELS, tokenizer: str = "0" * 32, seed: int = 0, refinement: int = 0
) -> TokenCoder:
    """A coder with random weights."""
    rng = np.random.default_rng(seed)
    words = rng.integers(1, 1 << 16, (OLDEST + 2, refinement), np.uint16) if refinement else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CoderModel(levels, words).export(tokenizer)


def draw_grids(coder: TokenCoder, count: int, size: tuple[int, int], seed: int = 0) -> list[np.ndarray]:
    """Grids of tokens of which most stay as they were; where some may refine, half of them do."""
    rng = np.random.default_rng(seed)
    content = math.prod(coder.levels)

    def draw() -> np.ndarray:
        grid = rng.integers(content, size=size)
        if coder.alphabet.codes > content:
            grid = np.where(rng.random(size) < 0.5, grid, rng.integers(content, coder.alphabet.codes, size=size))
        return grid.astype(coder.dtype)

    grids = [draw()]
    for _ in range(count - 1):
        fresh = draw()
        grids.append(np.where(rng.random(size) < 0.3, fresh, grids[-1]))
    return grids


def make_vectors(coder: TokenCoder, grids: list[np.ndarray]) -> dict[str, object]:
    """Coded messages of a stream: a keyframe, grids from those before, and one that is independent."""
    messages, past = [], FRESH
    for seq, grid in enumerate(grids):
        independent = seq == len(grids) - 1
        payload, past = coder.encode(grid, FRESH if independent else past)
        facts = {"seq": seq, "keyframe": seq == 0, "independent": independent, "grid": list(grid.shape)}
        messages.append(facts | {"checksum": zlib.crc32(grid.astype("<u2").tobytes()), "payload": payload.hex()})
    return {"coder": coder.fingerprint, "levels": list(coder.alphabet.levels), "messages": messages}
