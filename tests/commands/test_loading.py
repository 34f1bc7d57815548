"""How commands run a model when nothing else is asked for."""

import json
from dataclasses import replace

import pytest
import torch

from streamtok.config import PRESETS
from streamtok.engine import EngineConfiguration, optimize
from streamtok.engine.configuration import store
from streamtok.engine.loading import engine_configuration, load, load_tokenizer, pick_device, place
from streamtok.model import Tokenizer, build
from streamtok.settings.rig import load_rig
from tests.kit.models import VIDEO

SIZE = (32, 48)


@pytest.fixture
def restored_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def latents(tok, frames):
    stream = tok.stream(1, *SIZE)
    parts = [frames[:, :, :1], *frames[:, :, 1:].split(4, 2)]
    return torch.cat([stream.step(part).latent for part in parts], 2)


@pytest.mark.parametrize("predictive", [False, True])
def test_a_cpu_gets_our_layers_which_compute_the_same(predictive):
    config = PRESETS["nano-p"] if predictive else VIDEO
    tok = build(config)
    placed = place(tok, "cpu")
    assert (placed.engine.kernels, placed.engine.precision, placed.engine.graph) == ("interleaved", "float32", False)
    assert placed.engine.threads == torch.get_num_threads()
    frames = torch.randint(0, 256, (1, 3, 13, *SIZE), dtype=torch.uint8)
    torch.testing.assert_close(latents(placed, frames), latents(tok, frames), atol=1e-5, rtol=0)
    assert placed.fingerprint == tok.fingerprint


def test_models_without_such_layers_and_deterministic_ones_stay_plain():
    small = {"stem_channels": 8, "encoder_channels": (8, 8, 8), "decoder_channels": (8, 8, 8), "z_channels": 8}
    eight = build(replace(PRESETS["cosmos-dv8x8x8"], **small))
    assert place(eight, "cpu").engine.kernels == "plain"
    exact = Tokenizer(VIDEO, deterministic=True)
    placed = place(exact, "cpu")
    assert (placed.deterministic, placed.engine.deterministic, placed.engine.kernels) == (True, True, "plain")
    frames = torch.randint(0, 256, (1, 3, 13, *SIZE), dtype=torch.uint8)
    assert torch.equal(latents(placed, frames), latents(exact, frames))


def test_a_plain_tokenizer_is_described_as_the_engine_that_computes_the_same():
    tok = build(VIDEO).double()
    described = EngineConfiguration.from_recorded(engine_configuration(tok))
    assert (described.kernels, described.precision, described.deterministic) == ("plain", "float64", False)
    assert (described.fingerprint, described.threads) == (tok.fingerprint, torch.get_num_threads())
    same, frames = optimize(tok, described), torch.randint(0, 256, (1, 3, 13, *SIZE), dtype=torch.uint8)
    assert torch.equal(latents(same, frames), latents(tok, frames))
    assert same.engine == described


def test_a_rig_says_what_it_runs(tmp_path):
    streams = [{"name": "a", "source": "synthetic:32x48@30?frames=1"}]
    settings = load_rig(None, {"model": "nano", "device": "cpu", "streams": streams})
    engine = engine_configuration(load_tokenizer(settings))
    assert engine["kernels"] == "interleaved"
    (tmp_path / "engine.json").write_text(json.dumps(engine))
    from_file = load_tokenizer(settings.model_copy(update={"engine": str(tmp_path / "engine.json")}))
    assert engine_configuration(from_file) == engine
    with pytest.raises(ValueError, match="engine 'eagr': expected auto, eager or"):
        load_tokenizer(settings.model_copy(update={"engine": "eagr"}))
    eager = load_tokenizer(settings.model_copy(update={"engine": "eager"}))
    assert engine_configuration(eager)["kernels"] == "plain"


@pytest.mark.parametrize("engine", ["auto", "FILE"])
def test_the_threads_a_rig_asks_for_hold_over_a_stored_engine(engine, tmp_path, monkeypatch, restored_threads):
    monkeypatch.setenv("STREAMTOK_CACHE", str(tmp_path))
    torch.set_num_threads(2)
    tok = load("nano")
    stored = replace(place(tok, "cpu").engine, size=SIZE, fingerprint=tok.fingerprint)
    path = store(stored)
    streams = [{"name": "a", "source": "synthetic:32x48@30?frames=1"}]
    settings = {"model": "nano", "device": "cpu", "engine": str(path) if engine == "FILE" else engine}
    asked = load_tokenizer(load_rig(None, {**settings, "streams": streams, "threads": 1}), SIZE)
    assert (stored.threads, asked.engine.threads, torch.get_num_threads()) == (2, 1, 1)
    assert load_tokenizer(load_rig(None, {**settings, "streams": streams}), SIZE).engine == stored


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:99"])
def test_a_device_that_is_not_there_is_named(name):
    with pytest.raises(ValueError, match=r"expected auto, cpu, cuda or cuda:N|this machine has"):
        pick_device(name)
