"""Weights that become the start of another model: what was learnt is still there."""

from dataclasses import replace

import pytest
import torch

from streamtok.model import build
from streamtok.training.build import close_loop
from tests.kit.models import SLIM


@pytest.fixture
def video():
    return torch.rand(1, 3, 9, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1


def test_a_predictive_model_starts_as_its_source(video):
    torch.manual_seed(0)
    source = build(SLIM).eval()
    model = close_loop(source, replace(SLIM, predictive=True)).eval()
    with torch.no_grad():
        key, closed = source(video[:, :, :1]), model(video[:, :, :1])
    torch.testing.assert_close(closed.reconstruction, key.reconstruction, atol=1e-5, rtol=0)
    assert torch.equal(closed.indices, key.indices)


def test_sizes_that_differ_are_named():
    wider = replace(SLIM, predictive=True, stem_channels=24)
    with pytest.raises(ValueError, match=r"encoder\.conv_in.*24"):
        close_loop(build(SLIM), wider)
    deeper = replace(SLIM, encoder_blocks=(2, 1))
    with pytest.raises(ValueError, match="has no encoder"):
        close_loop(build(deeper), replace(SLIM, predictive=True))
