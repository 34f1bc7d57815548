"""The world model example: it sees only the past, and beats the token frequencies where there is something to learn."""

import importlib
import importlib.util
import itertools
import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from streamtok.tokens.files import EncodeOptions, encode_file

EXAMPLE = Path(__file__).parents[2] / "examples" / "world_model.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("world_model_example", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sampler(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    return importlib.import_module("sample_world_model")


@pytest.fixture
def model(example):
    torch.manual_seed(0)
    made = example.WorldModel((8, 8, 8, 5, 5, 5), channels=16, blocks=2)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.2)
    return made


def test_the_future_costs_the_past_nothing(model):
    tokens = torch.randint(0, 64_000, (2, 6, 3, 4))
    changed = tokens.clone()
    changed[:, 4] = torch.randint(0, 64_000, (2, 3, 4))
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.equal(before[:, 3:], after[:, 3:])


def test_a_token_does_not_help_to_predict_its_neighbours(model):
    tokens = torch.randint(0, 64_000, (1, 3, 3, 4))
    changed = tokens.clone()
    changed[0, 2, 1, 1] = (changed[0, 2, 1, 1] + 12_345) % 64_000
    different = (model(tokens) != model(changed))[0]
    assert different.sum() == different[1, 1, 1] == 1


def test_the_bits_of_all_codes_are_those_of_a_distribution(example):
    """With few codes: the probabilities of every possible next token add up to one."""
    torch.manual_seed(0)
    model = example.WorldModel((3, 2, 4), channels=8, blocks=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    window = torch.randint(0, 24, (2, 1, 1)).repeat(24, 1, 1, 1)
    window[:, 1, 0, 0] = torch.arange(24)
    assert torch.allclose((2 ** -model(window)).sum(), torch.ones(()), atol=1e-5)


def test_it_beats_the_token_frequencies(example, tmp_path, token_file, groups_of, capsys):
    """Grids that mostly repeat the one before, under a frequency entropy that knows nothing of it."""
    rng = np.random.default_rng(0)
    groups = groups_of([120])
    for before, now in itertools.pairwise(groups):
        same = rng.random(now.tokens.shape) < 0.8
        now.tokens[same] = before.tokens[same]
    token_file(tmp_path / "a.safetensors", groups)
    status = example.main([str(tmp_path), "--max-seconds", "0.5", "--window", "6", "--json"])
    out, err = capsys.readouterr()
    result, seen = json.loads(out), [float(line.split()[2]) for line in err.splitlines() if line.startswith("step")]
    assert status == 0
    assert result["bits_per_token"] == min(seen)  # the best model is what is left
    assert 0 <= result["best_step"] <= result["steps"]
    assert result["training_tokens"] > 0
    assert result["bits_per_token"] < result["frequency_entropy"] - 1
    assert 0 < result["frequency_entropy"] < result["log2_codes"]


def test_too_little_or_nothing_is_one_clear_line(example, tmp_path, token_file, groups_of, capsys):
    assert example.main([str(tmp_path / "absent")]) == 1
    assert "absent: no such file" in capsys.readouterr().err
    assert example.main([str(token_file(tmp_path / "a.safetensors", groups_of([5])))]) == 1
    assert "1 window of 8 grids, too few" in capsys.readouterr().err


def test_tokens_of_a_model_with_a_coder_are_compared_with_it(example, tmp_path, capsys):
    encode_file("synthetic:32x48@30?seed=1&frames=97", tmp_path / "a.safetensors", "nano", EncodeOptions())
    example.main([str(tmp_path), "--max-seconds", "0.5", "--window", "6", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert 0 < result["token_coder"] < result["log2_codes"]


def test_it_draws_what_it_predicts(example, sampler):
    """The shares of drawn tokens are the probabilities that the bits of all possible tokens say."""
    torch.manual_seed(0)
    model, drawn = example.WorldModel((3, 2, 4), channels=8, blocks=1), 20_000
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    past = torch.randint(0, 24, (1, 2, 1, 1))
    every = torch.cat([past.expand(24, -1, -1, -1), torch.arange(24).view(24, 1, 1, 1)], 1)
    predicted = 2 ** -model(every)[:, -1].flatten().detach()
    shares = (
        torch.bincount(sampler.draw_next(model, past.expand(drawn, -1, -1, -1), 1.0).flatten(), minlength=24) / drawn
    )
    deviations = (predicted * (1 - predicted) / drawn).sqrt()
    assert ((shares - predicted).abs() < 5 * deviations).all()
    certain = sampler.draw_next(model, past.expand(64, -1, -1, -1), 1e-4)
    assert len(certain.unique()) == 1
    assert torch.equal(sampler.draw_next(model, past.expand(64, -1, -1, -1), 0.0), certain)


def write_weights(path):
    torch.save({"levels": (8, 8, 8, 5, 5, 5), "weights": {"of_another_model": torch.zeros(1)}}, path)
    return path


def test_a_saved_model_goes_on_from_recorded_tokens_as_a_video(example, sampler, tmp_path, capsys):
    tokens, saved, video = tmp_path / "a.safetensors", tmp_path / "model.pt", tmp_path / "sample.mp4"
    encode_file("synthetic:32x48@30?seed=1&frames=97", tokens, "nano", EncodeOptions())
    example.main([str(tokens), "--max-seconds", "0.5", "--window", "6", "--save", str(saved)])
    assert sampler.main([str(saved), str(tokens), "-o", str(video), "--given", "3", "--grids", "2"]) == 0
    assert "3 grids given, 2 drawn" in capsys.readouterr().out
    with av.open(str(video)) as opened:
        frames = [frame.to_ndarray(format="rgb24") for frame in opened.decode(video=0)]
    assert len(frames) == 1 + 4 * 4
    left, right = (np.stack(frames)[:, :, half].astype(int) for half in (slice(48), slice(48, None)))
    assert np.abs(left - right)[:9].mean() < 2  # the given grids; the video is lossy
    for wrong in (tokens, tmp_path, Path(__file__), write_weights(tmp_path / "other.pt")):
        assert sampler.main([str(wrong), str(tokens), "--given", "3", "--grids", "2"]) == 1
        [line] = capsys.readouterr().err.splitlines()
        assert str(wrong) in line
    assert sampler.main([str(saved), str(tokens), "--grids", "90"]) == 1
    assert "ask for fewer --grids" in capsys.readouterr().err
