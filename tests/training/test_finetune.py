"""Fine-tuning in one command; precision by measurement; large matrices; parts held out; other channels."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import streamtok
from streamtok.checkpoint import save
from streamtok.cli import main
from streamtok.commands import finetune
from streamtok.config import PRESETS
from streamtok.model import build
from streamtok.settings.errors import SettingsError
from streamtok.training import speed
from streamtok.training.build import build_model
from streamtok.training.config import TrainConfig
from streamtok.training.footage import survey
from streamtok.training.journal import read_journal
from streamtok.training.loop import train
from streamtok.training.optimizer import MuonAdamW
from streamtok.training.speed import choose_dtype
from tests.kit.models import SLIM, tiny
from tests.kit.training import TINY, config

CPU = torch.device("cpu")


def test_one_command_fine_tunes_holds_out_and_tells_what_it_gained(tmp_path, capsys):
    torch.manual_seed(0)
    save(build(SLIM), tmp_path / "start")
    out, clip = tmp_path / "out", "synthetic:96x128@30?seed=1&frames=60"
    command = [clip, "--model", str(tmp_path / "start"), "--steps", "4", "-o", str(out), "--device", "cpu"]
    assert finetune.main(command) == 0
    told = capsys.readouterr().out
    folder = out / "model"
    assert streamtok.load(folder).config.name == "nano"
    for line in (f"{folder}: nano after 4 steps", "held out: ", f"ingest --source /dev/video0 --model {folder}"):
        assert line in told
    assert f"streamtok reconstruct '{clip}' --model {folder}" in told
    checks = [line for line in read_journal(out / "log.jsonl") if line["kind"] == "validate"]
    assert [line["step"] for line in checks] == [0, 4]
    assert {"sample_0000000.png", "sample_0000004.png", "curve.png"} <= {path.name for path in out.iterdir()}
    assert finetune.main([*command, "--json"]) == 2  # a run lies there
    assert finetune.main([*command, "--overwrite", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["gain"] == pytest.approx(report["after"] - report["before"])
    assert report["before"] == pytest.approx(checks[0]["psnr"], abs=1e-3)


def test_a_fine_tune_of_the_decoder_alone_leaves_tokens_what_they_are(tmp_path):
    torch.manual_seed(0)
    save(build(SLIM), tmp_path / "start")
    command = ["synthetic:96x128@30?seed=1&frames=60", "--model", str(tmp_path / "start"), "--steps", "2"]
    assert finetune.main([*command, "-o", str(tmp_path / "out"), "--device", "cpu", "--decoder-only"]) == 0
    before, after = (streamtok.load(tmp_path / name) for name in ("start", "out/model"))
    assert after.fingerprint == before.fingerprint
    assert not torch.equal(after.decoder.conv_out.weight, before.decoder.conv_out.weight)


def test_many_clips_are_held_out_whole_and_few_by_their_ends(tmp_path):
    for name in "abcdef":
        (tmp_path / f"{name}.mp4").write_bytes(b"")
    many = finetune.plan_run(finetune.FinetuneSettings(videos=[str(tmp_path)]))
    assert (many.data.holdout, many.data.holdout_tail) == (("a", "f"), 0.0)
    few = finetune.plan_run(finetune.FinetuneSettings(videos=[str(tmp_path / "a.mp4")]))
    assert (few.data.holdout, few.data.holdout_tail) == ((), 0.2)
    spec = "synthetic:32x32@30?seed=1&frames=50"
    first, last = (survey(spec, 100, 10, part) for part in ((0.0, 0.8), (0.8, 1.0)))
    assert (first.stretches, last.stretches) == ((range(40),), (range(40, 50),))
    whole, end = ([frame for _, frame in part.read()] for part in (survey(spec, 100, 10), last))
    assert all((a == b).all() for a, b in zip(whole[40:], end, strict=True))
    both = config(tmp_path / "x", data={"paths": [spec], "holdout": ["syn"], "holdout_tail": 0.2})
    with pytest.raises(SettingsError, match="give one of them"):
        train(both, build_model(both))


def test_the_precision_is_the_faster_one_and_a_slow_one_is_told(monkeypatch, caplog):
    for ratio, chosen in ((0.5, torch.bfloat16), (9.5, torch.float32)):
        monkeypatch.setattr(speed, "measure_bfloat16", lambda ratio=ratio: ratio)
        assert choose_dtype("auto", CPU) == chosen
        assert choose_dtype("float32", CPU) == torch.float32
    with caplog.at_level(logging.WARNING):
        assert choose_dtype("bfloat16", CPU) == torch.bfloat16
        monkeypatch.setattr(speed, "measure_bfloat16", lambda: 0.4)
        assert choose_dtype("float32", CPU) == torch.float32
    assert "event=slow_setting dtype=bfloat16 costs=9.5" in caplog.text
    assert "event=slow_setting dtype=float32 costs=2.5" in caplog.text


def test_a_resumed_run_keeps_the_precision_that_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "measure_bfloat16", lambda: 9.0)
    auto = config(tmp_path, dtype="auto", steps=2)
    train(auto, build_model(auto), stop_after=0)
    monkeypatch.setattr(speed, "measure_bfloat16", lambda: 0.1)
    assert train(auto, build_model(auto), resume=True).complete
    assert torch.load(tmp_path / "last.pt", weights_only=True)["dtype"] == "float32"


def test_published_sizes_train_without_minutes_of_newton_schulz():
    """Matrices of 512 rows, as theirs, move at Muon's rate but by AdamW, where there is no GPU."""
    layers = nn.Sequential(nn.Conv2d(512, 512, 3, bias=False), nn.Linear(64, 320, bias=False))
    optimizer = MuonAdamW(layers, config := TrainConfig(optimizer={"muon_lr": 1e-3, "adamw_lr": 4e-3}).optimizer)
    assert [tuple(p.shape) for p in optimizer.muon] == [(320, 64)]
    assert (optimizer.adamw, optimizer.rates) == ([layers[0].weight], [config.muon_lr / config.adamw_lr])
    before = layers[0].weight.detach().clone()
    layers[0].weight.grad = torch.ones_like(before)
    optimizer.step()
    torch.testing.assert_close(before - layers[0].weight, torch.full_like(before, config.muon_lr), rtol=1e-2, atol=1e-5)


def test_two_sources_of_an_architecture_are_refused(tmp_path):
    save(tiny("slim", dtype=torch.float32), tmp_path)
    with pytest.raises(SettingsError, match=r"are two architectures \(they differ in .*encoder_channels"):
        build_model(TrainConfig(init=str(tmp_path), model="nano"))
    assert build_model(TrainConfig(init=str(tmp_path))).config.stem_channels == 8
    assert build_model(TrainConfig(init=str(tmp_path), model="nano", model_overrides=small_sizes())).config == SLIM


def test_a_corrector_is_not_taken_away(tmp_path):
    save(tiny("slim-pc", dtype=torch.float32), tmp_path)
    sizes = small_sizes() | {"predictive": True}
    with pytest.raises(SettingsError, match=r"two architectures \(they differ in corrections\): leave out model"):
        build_model(TrainConfig(init=str(tmp_path), model="nano", model_overrides=sizes))


def small_sizes():
    ours, theirs = SLIM.to_dict(), PRESETS["nano"].to_dict()
    return {name: value for name, value in ours.items() if value != theirs[name]}


def test_one_channel_trains_from_scratch_on_videos(tmp_path):
    run = config(tmp_path, model_overrides=TINY | {"in_channels": 1}, steps=3)
    summary = train(run, model := build_model(run))
    assert summary.complete
    assert model.encoder.conv_in.spatial.weight.shape[1] == 64
    assert {line["kind"] for line in read_journal(Path(tmp_path) / "log.jsonl")} >= {"train"}


def write_arrays(folder: Path, channels: int, count: int = 20) -> str:
    """A folder of .npy pictures of noise that moves, as a source of ten a second."""
    folder.mkdir()
    noise = np.random.default_rng(channels).integers(0, 256, (48, 64, channels), dtype=np.uint8)
    for number in range(count):
        np.save(folder / f"{number}.npy", np.roll(noise, number, axis=1))
    return f"images:{folder}?fps=10"


@pytest.mark.parametrize("channels", [2, 6])
def test_models_of_other_channels_train_on_the_folders_that_ingest_reads(tmp_path, channels):
    """From camera to decoder: a folder of arrays, training with held-out frames, the weights, and the frames back."""
    data = {"paths": [write_arrays(tmp_path / "arrays", channels)], "holdout_tail": 0.3, "scales": [32, 48]}
    run = config(tmp_path / "run", model_overrides=TINY | {"in_channels": channels}, steps=3, data=data)
    model = build_model(run)
    assert train(run, model).validation["psnr"] > 0
    save(model, tmp_path / "weights")
    assert not main(
        ["encode", data["paths"][0], "--model", str(tmp_path / "weights"), "-o", str(tmp_path / "a.safetensors")]
    )
    assert not main(
        ["decode", str(tmp_path / "a.safetensors"), "--model", str(tmp_path / "weights"), "-o", str(tmp_path / "back")]
    )
    assert np.load(next((tmp_path / "back").glob("**/*.npy"))).shape == (48, 64, channels)


def test_training_refuses_pictures_of_other_channels_by_name(tmp_path, caplog):
    data = {"paths": [write_arrays(tmp_path / "arrays", 4)]}
    run = config(tmp_path / "run", model_overrides=TINY, steps=3, data=data)
    with pytest.raises(ValueError, match="none of the 1 files"):
        train(run, build_model(run))
    assert "arrays" in caplog.text
    assert "pictures have 4 channels, the tokenizer takes RGB" in caplog.text
