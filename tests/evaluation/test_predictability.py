"""Bits per token by counts and by the coder, on tokens of which they are known."""

import numpy as np
import pytest
import torch

from streamtok.evaluation.predictability import Predictability
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
    found = Predictability(coder.digits.levels, coder).add(torch.from_numpy(grids), video=True)
    assert 15.5 < found["coded_bits"] < 18
