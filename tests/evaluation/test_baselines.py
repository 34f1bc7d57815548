"""Baselines: codecs within their budget, averages by hand, and the net without rounding."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from streamtok.evaluation.baselines import CODECS, Unrounded, average_grid, codec_at_bits, make_unrounded
from streamtok.evaluation.dataset import Clip
from streamtok.evaluation.layouts import as_unit
from streamtok.evaluation.metrics import psnr
from streamtok.model.tokenizer import Tokenizer
from tests.kit.pictures import scene


def quality(original: np.ndarray, shown: np.ndarray) -> float:
    return psnr(*(as_unit(torch.from_numpy(x).permute(0, 3, 1, 2)) for x in (original, shown)))


@pytest.mark.parametrize("codec", CODECS)
def test_a_codec_keeps_its_budget_and_uses_it(codec: str):
    frames = scene(9) + np.random.default_rng(0).integers(0, 12, (9, 64, 96, 3), np.uint8)
    small, large = (codec_at_bits(frames, codec, bits) for bits in (30_000, 90_000))
    assert 0.8 * 30_000 < small.bits <= 30_000
    assert 0.8 * 90_000 < large.bits <= 90_000
    assert small.frames.shape == large.frames.shape == frames.shape
    assert 20 < quality(frames, small.frames) < quality(frames, large.frames)


def test_a_budget_that_nothing_fits_gives_the_smallest():
    frames = scene(3)
    coded = codec_at_bits(frames, "x264", 1)
    assert coded.bits > 1
    assert coded.crf == 51


def test_grid_average_by_hand():
    frames = np.zeros((5, 8, 16, 3), np.uint8)
    frames[0, :, :8], frames[0, :, 8:] = 40, 200
    frames[1:] = np.array([0, 40, 80, 120], np.uint8)[:, None, None, None]
    shown = average_grid(Clip("steps", frames), group=4, step=8) * 255
    assert shown.shape == (5, 3, 8, 16)
    assert torch.allclose(shown[1:], torch.tensor(60.0))
    assert shown[0].mean().item() == pytest.approx(120, abs=2)
    assert shown[0, :, :, 0].mean() < 60 < 180 < shown[0, :, :, -1].mean()


def test_unrounded_codes_round_to_the_tokens(tiny: Callable[..., Tokenizer]):
    fsq = tiny().quantizer
    z = 3 * torch.randn(2, 6, 4, 5)
    half = torch.tensor([level // 2 for level in fsq.levels]).view(-1, 1, 1)
    exact = Unrounded(fsq)(z).codes
    assert torch.equal((exact * half).round() / half, fsq(z).codes)
    assert (exact - fsq(z).codes).abs().max() > 0.05


@pytest.mark.parametrize("changes", [{}, {"predictive": True}, {"refinement": 8}])
def test_unrounded_net_leaves_the_tokenizer_as_it_was(tiny: Callable[..., Tokenizer], changes: dict):
    tok = tiny(**changes)
    clip = Clip("scene", scene(9))
    before = tok.encode(torch.from_numpy(clip.frames).permute(3, 0, 1, 2)[None]).indices
    shown = make_unrounded(tok)(clip)
    assert shown.shape == (9, 3, 64, 96)
    after = tok.encode(torch.from_numpy(clip.frames).permute(3, 0, 1, 2)[None]).indices
    assert torch.equal(before, after)


def test_only_fsq_has_an_unrounded_form(tiny: Callable[..., Tokenizer]):
    with pytest.raises(ValueError, match="tiny is ae"):
        make_unrounded(tiny(quantizer="ae"))
