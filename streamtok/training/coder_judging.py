"""Measures a token coder on held-out clips: its bits per token, by clip and kind of grid."""

import lzma
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from streamtok.coding.coder import FRESH, TokenCoder
from streamtok.model import Tokenizer
from streamtok.training.coder_tokens import JUDGED, Epoch, tokenize_views


def count_bits(coder: TokenCoder, grids: np.ndarray, independent: bool = False) -> list[float]:
    """Bits per token of each grid (T, h, w) of an epoch, coded with its past unless `independent`, and decoded again.

    ValueError if decoding gives other tokens.
    """
    bits, past = [], FRESH
    for grid in grids:
        data, after = coder.encode(grid, past)
        again, _ = coder.decode(data, grid.shape, past)
        if not np.array_equal(grid, again):
            raise ValueError("the coder does not give back what it was given")
        bits.append(8 * len(data) / grid.size)
        past = FRESH if independent else after
    return bits


def judge_views(coder: TokenCoder, tok: Tokenizer, paths: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """`judge_clips` of held-out files, by the name of each view of JUDGED: the clips, and their stills held."""
    return {name: judge_clips(coder, tokenize_views(tok, paths, [view], view.epoch)) for name, view in JUDGED.items()}


def judge_clips(coder: TokenCoder, epochs: Sequence[Epoch]) -> dict[str, dict[str, float]]:
    """Bits per token of each held-out clip: over all grids, of the keyframe, of the others, of all coded independently,
    and of all by lzma."""
    rows: dict[str, dict[str, float]] = {}
    for epoch in epochs:
        bits, alone = count_bits(coder, epoch.grids), count_bits(coder, epoch.grids, independent=True)
        rows[Path(epoch.path).stem] = {
            "bits": fmean(bits),
            "keyframe": bits[0],
            "others": fmean(bits[1:]) if bits[1:] else bits[0],
            "independent": fmean(alone),
            "lzma": 8 * len(lzma.compress(epoch.grids.tobytes())) / epoch.grids.size,
        }
    return rows
