"""Weights that become the start of another model: what was learnt is still there."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import streamtok
from streamtok.checkpoint import save
from streamtok.model import build
from streamtok.settings.errors import SettingsError
from streamtok.training.build import add_corrector, build_model, close_loop, cut_decoder, export_model
from streamtok.training.config import TrainConfig
from streamtok.training.loop import train
from tests.kit.models import CONFIGS, SLIM
from tests.kit.training import TINY, config


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


def test_a_corrector_changes_nothing_before_it_learns(video):
    source = build(CONFIGS["slim-p"])
    model = add_corrector(source, CONFIGS["slim-pc"])
    assert torch.equal(model.encode(video).indices, source.encode(video).indices)


def test_sizes_that_differ_are_named():
    wider = replace(SLIM, predictive=True, stem_channels=24)
    with pytest.raises(ValueError, match=r"encoder\.conv_in.*24"):
        close_loop(build(SLIM), wider)
    deeper = replace(SLIM, encoder_blocks=(2, 1))
    with pytest.raises(ValueError, match="has no encoder"):
        close_loop(build(deeper), replace(SLIM, predictive=True))


WIDE = replace(SLIM, decoder_channels=(12, 16), decoder_blocks=(2, 1))


def test_a_decoder_starts_as_what_weighs_most_in_a_larger_one(video):
    """Channels and blocks that do nothing are what is left out: the pictures stay."""
    torch.manual_seed(0)
    source = build(WIDE).eval()
    dead = torch.arange(12) % 3 == 1
    with torch.no_grad():
        source.decoder.conv_out.weight[:, dead] = 0
    cut = cut_decoder(source, SLIM)
    kept = source.decoder.conv_out.weight[:, ~dead]
    assert torch.equal(cut.decoder.conv_out.weight, kept)
    assert torch.equal(cut.encode(video).indices, source.encode(video).indices)


@pytest.mark.parametrize("wanted", [{"decoder_channels": (8, 24)}, {"decoder_blocks": (3, 1)}])
def test_a_decoder_that_is_not_a_smaller_one_is_refused(wanted):
    with pytest.raises(ValueError, match=r"only the first may be smaller|the one to start from has not"):
        cut_decoder(build(WIDE), replace(SLIM, **wanted))


def test_a_decoder_that_was_trained_alone_keeps_tokens_and_fingerprint(tmp_path, video):
    """A smaller one, trained a few steps; what it makes and what was recorded before fit each other."""
    torch.manual_seed(0)
    wider = config(tmp_path, model_overrides=TINY | {"decoder_channels": [20, 24]})
    save(build_model(wider), tmp_path / "start")
    run = config(tmp_path / "run", init=str(tmp_path / "start"), freeze="encoder", steps=3)
    model = build_model(run)
    train(run, model)
    before, after = (streamtok.load(folder) for folder in (tmp_path / "start", export_model(model, run)))
    assert after.config.decoder_channels == (12, 24)
    assert (
        after.fingerprint
        == before.fingerprint
        == streamtok.load(tmp_path / "start", expect=after.fingerprint).fingerprint
    )
    assert after.weights_digest != before.weights_digest
    assert torch.equal(after.encode(video).latent, before.encode(video).latent)
    save(after, tmp_path / "again")
    assert streamtok.load(tmp_path / "again").fingerprint == before.fingerprint
    with torch.no_grad():
        after.post_quant_conv.bias += 1
    assert after.fingerprint == after.weights_digest  # other weights, of which nothing is known


@pytest.mark.parametrize(
    ("changes", "why"), [({"predictive": True}, "decoder"), ({"quantizer": "vq"}, "quantizer that")]
)
def test_a_decoder_is_trained_alone_only_where_tokens_stay(changes, why, tmp_path):
    save(build(replace(SLIM, **changes)), tmp_path / "start")
    values = {"init": str(tmp_path / "start"), "out": str(tmp_path), "freeze": "encoder"}
    with pytest.raises(SettingsError, match=f"makes its tokens with .*{why}"):
        build_model(TrainConfig.model_validate(values))
    with pytest.raises(SettingsError, match="there is nothing to keep: give init"):
        build_model(config(tmp_path, freeze="encoder"))


def test_a_predictive_model_from_another_decoder_is_told_what_to_give(tmp_path):
    save(build(SLIM), tmp_path / "start")
    with pytest.raises(
        SettingsError, match=r"model_overrides: \{decoder_channels: \[8, 16\], decoder_blocks: \[1, 1\]"
    ):
        build_model(config(tmp_path, model="nano-p", init=str(tmp_path / "start")))


def test_tokens_of_another_encoder_keep_no_fingerprint():
    torch.manual_seed(0)
    source, other = build(SLIM), build(SLIM)
    with pytest.raises(ValueError, match="its encoder is another"):
        other.keep_fingerprint(source)
    closed = build(replace(SLIM, predictive=True))
    with pytest.raises(ValueError, match="a decoder in its loop"):
        closed.keep_fingerprint(closed)


def test_a_decoder_that_was_altered_is_refused(tmp_path):
    torch.manual_seed(0)
    source, other = build(SLIM), build(SLIM)
    other.load_state_dict(source.state_dict() | {"decoder.conv_out.bias": torch.ones(192)})
    save(other, tmp_path, tokens_of=source)
    assert json.loads((tmp_path / "config.json").read_text())["fingerprint"] == source.fingerprint
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"decoder.conv_out.bias": torch.zeros(192)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="was altered"):
        streamtok.load(tmp_path)


@pytest.mark.parametrize(("predictive", "fingerprint"), [(False, "../../escaped"), (False, 5), (True, "0" * 32)])
def test_a_fingerprint_that_cannot_be_of_these_tokens_is_refused(predictive, fingerprint, tmp_path):
    save(build(replace(SLIM, predictive=predictive)), tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"fingerprint": fingerprint}))
    with pytest.raises(ValueError, match="expected 32 hex digits"):
        streamtok.load(tmp_path)


def test_a_tokenizer_on_an_engine_is_saved_with_its_fingerprint(tmp_path):
    nano = streamtok.load("nano", engine="default", device="cpu")
    save(nano, tmp_path)
    assert streamtok.load(tmp_path).fingerprint == nano.fingerprint
