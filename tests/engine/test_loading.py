"""How commands run a model when nothing else is asked for."""

import json
from dataclasses import replace

import pytest
import torch

from streamtok.bench.clips import encode_by_steps
from streamtok.config import PRESETS
from streamtok.engine import EngineConfiguration, optimize
from streamtok.engine.configuration import store
from streamtok.engine.loading import default_engine, load, pick_device
from streamtok.engine.optimized import describe_engine
from streamtok.model import Tokenizer, build
from tests.kit.models import VIDEO

SIZE = (32, 48)


def latents(tok, frames):
    return encode_by_steps(tok.stream(1, *SIZE), frames)[0]


CLOSED_LOOPS = [PRESETS[name] for name in ("nano-p", "nano-r", "nano-pr")]


@pytest.mark.parametrize("config", [VIDEO, *CLOSED_LOOPS], ids=lambda config: config.name)
def test_a_cpu_gets_our_layers_which_compute_the_same(config):
    tok = build(config)
    placed = load(tok, engine="default", device="cpu")
    engine = describe_engine(placed)
    assert (engine.kernels, engine.precision, engine.graph) == ("interleaved", "float32", False)
    assert engine.threads == torch.get_num_threads()
    frames = torch.randint(0, 256, (1, 3, 13, *SIZE), dtype=torch.uint8)
    torch.testing.assert_close(latents(placed, frames), latents(tok, frames), atol=1e-5, rtol=0)
    assert placed.fingerprint == tok.fingerprint


def test_models_without_such_layers_and_deterministic_ones_stay_plain():
    small = {"stem_channels": 8, "encoder_channels": (8, 8, 8), "decoder_channels": (8, 8, 8), "z_channels": 8}
    eight = build(replace(PRESETS["cosmos-dv8x8x8"], **small))
    assert describe_engine(load(eight, engine="default", device="cpu")).kernels == "plain"
    exact = Tokenizer(VIDEO, deterministic=True)
    placed = load(exact, engine="default", device="cpu")
    engine = describe_engine(placed)
    assert (placed.deterministic, engine.deterministic, engine.kernels) == (True, True, "plain")
    frames = torch.randint(0, 256, (1, 3, 13, *SIZE), dtype=torch.uint8)
    assert torch.equal(latents(placed, frames), latents(exact, frames))


def test_a_plain_tokenizer_is_described_as_the_engine_that_computes_the_same():
    tok = build(VIDEO).double()
    described = EngineConfiguration.from_dict(describe_engine(tok).to_dict())
    assert (described.kernels, described.precision, described.deterministic) == ("plain", "float64", False)
    assert (described.fingerprint, described.threads) == (tok.fingerprint, torch.get_num_threads())
    same, frames = optimize(tok, described), torch.randint(0, 256, (1, 3, 13, *SIZE), dtype=torch.uint8)
    assert torch.equal(latents(same, frames), latents(tok, frames))
    assert describe_engine(same) == described


def test_a_tokenizer_says_what_it_runs(tmp_path):
    assert default_engine("cpu") == "default"
    engine = describe_engine(load("nano", engine="default", device="cpu")).to_dict()
    assert engine["kernels"] == "interleaved"
    (tmp_path / "engine.json").write_text(json.dumps(engine))
    for file in (tmp_path / "engine.json", str(tmp_path / "engine.json")):
        assert describe_engine(load("nano", engine=file, device="cpu")).to_dict() == engine
    with pytest.raises(ValueError, match="engine 'eagr': expected auto, eager or"):
        load("nano", engine="eagr", device="cpu")
    assert describe_engine(load("nano", engine="eager", device="cpu")).to_dict()["kernels"] == "plain"


@pytest.mark.parametrize("engine", ["auto", "FILE"])
def test_the_threads_that_are_asked_for_hold_over_a_stored_engine(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("STREAMTOK_CACHE", str(tmp_path))
    torch.set_num_threads(2)
    tok = load("nano")
    stored = replace(describe_engine(load(tok, engine="default", device="cpu")), size=SIZE, fingerprint=tok.fingerprint)
    path = store(stored)
    options = {"engine": str(path) if engine == "FILE" else engine, "device": "cpu", "size": SIZE}
    asked = load("nano", threads=1, **options)
    assert (stored.threads, describe_engine(asked).threads, torch.get_num_threads()) == (2, 1, 1)
    assert describe_engine(load("nano", **options)) == stored
    assert describe_engine(load("nano", slots_per_step=3, **options)) == replace(stored, slots_per_step=3)


def test_other_weights_than_those_expected_are_refused(tmp_path):
    nano = load("nano")
    assert load("nano", expect=nano.fingerprint).fingerprint == nano.fingerprint
    with pytest.raises(ValueError, match=rf"{'0' * 32}, 'nano' here is {nano.fingerprint}: .*give the checkpoint"):
        load("nano", expect="0" * 32)


def test_deterministic_tokenizers_are_not_measured():
    with pytest.raises(ValueError, match="drop engine='auto'"):
        load("nano", True, engine="auto")
    assert describe_engine(load("nano", True, engine="default", device="cpu")).deterministic


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:99"])
def test_a_device_that_is_not_there_is_named(name):
    with pytest.raises(ValueError, match=r"expected auto, cpu, cuda or cuda:N|this machine has"):
        pick_device(name)
