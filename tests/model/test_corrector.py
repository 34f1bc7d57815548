"""A corrector: the encoder's second look at what its draft decodes to."""

from dataclasses import replace

import pytest
import torch

from streamtok.model import build
from tests.kit.models import CONFIGS, SLIM, tiny, video


@pytest.mark.parametrize("name", ["slim-pc", "slim-prc"])
def test_it_changes_tokens_but_not_how_they_decode(name):
    model, clip = tiny(name), video(9)
    corrected = model.encode(clip).indices
    shown = model.decode(corrected)
    model.config = replace(model.config, corrections=0)
    assert not torch.equal(model.encode(clip).indices, corrected)
    assert torch.equal(model.decode(corrected), shown)


def test_trained_alone_it_brings_pictures_nearer():
    torch.manual_seed(0)
    model, clip = build(CONFIGS["slim-pc"]), video(9, dtype=torch.float32)
    model.requires_grad_(False).corrector.requires_grad_(True)
    optimizer = torch.optim.Adam(model.corrector.parameters(), 3e-3)
    errors = []
    for _ in range(40):
        error = (model(clip).reconstruction - clip).square().mean()
        error.backward()
        optimizer.step()
        optimizer.zero_grad()
        errors.append(error.item())
    assert min(errors[-5:]) < 0.99 * errors[0]


def test_without_a_decoder_in_the_loop_there_is_no_draft():
    with pytest.raises(ValueError, match="corrector needs a decoder in the loop"):
        replace(SLIM, corrections=1)
    with pytest.raises(ValueError, match="vae"):
        replace(CONFIGS["slim-pc"], quantizer="vae", z_factor=2)
    with pytest.raises(ValueError, match="corrections is -1"):
        replace(CONFIGS["slim-pc"], corrections=-1)


def test_each_further_correction_changes_what_the_one_before_gave():
    model, clip, found = tiny("slim-pc"), video(9), []
    for corrections in (1, 2, 3):
        model.config = replace(model.config, corrections=corrections)
        found.append(model.encode(clip).indices)
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])
    for parameter in model.corrector.change.parameters():  # a corrector that changes nothing, three times
        torch.nn.init.zeros_(parameter)
    thrice, model.config = model.encode(clip).indices, replace(model.config, corrections=0)
    assert torch.equal(thrice, model.encode(clip).indices)
