"""Bits per token by counts and by the coder, on tokens of which they are known."""

import numpy as np
import pytest
import torch

from streamtok.evaluation.codes import Predictability
from tests.kit.coders import make_coder

LEVELS = (8, 5)


def test_counts_know_tokens_that_stay_and_tokens_that_cannot_be_foreseen():
    rng = np.random.default_rng(0)
    still = np.repeat(rng.integers(40, size=(1, 60, 60)), 50, 0)
    counts = Predictability(LEVELS)
    assert counts.add(torch.from_numpy(still)[None], video=True) == {}
    summary = counts.summary()
    assert summary["order_0_bits"] == pytest.approx(np.log2(40), abs=0.05)
    assert summary["last_grid_bits"] == pytest.approx(np.log2(40) / 50, abs=0.01)  # of the first grid alone
    images = Predictability(LEVELS)
    images.add(torch.from_numpy(still), video=False)
    assert images.summary()["last_grid_bits"] == pytest.approx(images.summary()["order_0_bits"])


def test_the_coder_is_judged_by_its_bytes():
    coder = make_coder()
    grids = np.random.default_rng(0).integers(64_000, size=(1, 3, 8, 9))
    found = Predictability(coder.levels, coder=coder).add(torch.from_numpy(grids), video=True)
    assert 15.5 < found["coded_bits"] < 18


def test_tokens_that_refine_are_counted_by_kind_and_codeword():
    """Every other cell is kept for ever with one of four codewords; the others are drawn anew from 40 codes."""
    rng = np.random.default_rng(0)
    grids = rng.integers(40, size=(50, 60, 60))
    grids[1:, :, ::2] = 40 + rng.integers(4, size=(49, 60, 30))
    counts = Predictability(LEVELS, refinement=4)
    counts.add(torch.from_numpy(grids)[None], video=True)
    found = counts.summary()
    share = 49 / 100
    kind = -(share * np.log2(share) + (1 - share) * np.log2(1 - share))
    parts = (1 - share) * np.log2(40) + share * 2
    assert found["order_0_bits"] == pytest.approx(kind + parts, abs=0.02)
    assert found["last_grid_bits"] == pytest.approx(parts, abs=0.1)  # all but the first grid keep what was kept
