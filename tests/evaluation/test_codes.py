"""Codebook use and entropy against counts done by hand."""

import math

import numpy as np
import pytest
import torch

from streamtok.evaluation.codes import CodeCounts
from streamtok.measures import entropy_bits


def test_entropy_of_known_histograms():
    assert entropy_bits(np.array([5, 5, 5, 5, 0])) == pytest.approx(2.0)
    assert entropy_bits(np.array([3, 1])) == pytest.approx(2 - 0.75 * math.log2(3))
    assert entropy_bits(np.array([7, 0])) == 0.0
    assert entropy_bits(np.zeros(4, int)) == 0.0


def test_counts_are_pooled_over_clips():
    counts = CodeCounts(8)
    counts.add(torch.zeros(1, 2, 1, 2, dtype=torch.int32))
    counts.add(torch.full((4,), 7))
    found = counts.summary()
    assert (found["tokens"], found["codes_used"], found["entropy_bits"]) == (8, 2, 1.0)
    assert found["bits_per_token"] == 3.0


def test_shares_of_each_fsq_level_with_the_first_level_fastest():
    counts = CodeCounts(6, (2, 3))
    counts.add(torch.tensor([0, 1, 2, 3]))  # digits (0,0) (1,0) (0,1) (1,1)
    assert counts.summary()["levels_used"] == [[0.5, 0.5], [0.5, 0.5, 0.0]]


def test_levels_agree_with_the_quantizer():
    from streamtok.model.quantizer import FSQ

    levels = (8, 8, 8, 5, 5, 5)
    indices = torch.randint(0, 64000, (1, 4, 5))
    codes = FSQ(levels).decode(indices, torch.float32)
    counts = CodeCounts(64000, levels)
    counts.add(indices)
    for level, shares in enumerate(counts.summary()["levels_used"]):
        digits = (codes[0, level] * (levels[level] // 2)).round().int() + levels[level] // 2
        assert shares == pytest.approx((digits.flatten().bincount(minlength=levels[level]) / 20).tolist(), abs=1e-4)


def test_a_token_outside_the_codebook_is_named():
    with pytest.raises(ValueError, match=r"token 9 is outside the codebook 0\.\.7"):
        CodeCounts(8).add(torch.tensor([1, 9]))
    with pytest.raises(ValueError, match="token -1 is outside"):
        CodeCounts(8).add(torch.tensor([-1]))
