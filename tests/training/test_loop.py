"""The loop as a whole: it learns, stops on NaN with the names, keeps its schedule, leaves what it says it leaves."""

import json
import pickle
import shutil

import cv2
import pytest
import torch

import streamtok
from streamtok.commands.train import main
from streamtok.engine.compile_cache import COMPILERS
from streamtok.io.synthetic import SyntheticDrive
from streamtok.model.layers import Norm
from streamtok.training.build import build_model
from streamtok.training.journal import plot_curves, read_journal
from streamtok.training.loop import train
from streamtok.training.optimizer import cosine
from streamtok.training.step import NonFiniteTraining, TrainingStep
from tests.kit.training import CLIPS, TINY, assert_same, config, write_avi


def lines(out, kind="train"):
    return [line for line in read_journal(out / "log.jsonl") if line["kind"] == kind]


def test_training_lowers_the_loss_on_synthetic_clips(tmp_path):
    plain = {"paths": CLIPS, "scales": [48], "brightness": 0.0, "threads": 1}
    phases = [{"frames": 5, "crop": 48, "batch": 2}]
    run = config(tmp_path, steps=100, save_every=1000, data=plain, phases=phases, optimizer={"warmup": 5, "ema": 0.9})
    train(run, build_model(run))
    losses = [line["loss_mse"] for line in lines(tmp_path)]
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])


def test_a_run_leaves_log_samples_curve_and_a_model_that_loads(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    file = tmp_path / "run.yaml"
    data = {"paths": ["not/these"], "holdout": ["held"], "scales": [48], "threads": 1}
    (tmp_path / "clips").mkdir()
    for name, seed in (("kept", 1), ("held", 2)):
        write_avi(tmp_path / "clips" / f"{name}.avi", SyntheticDrive(48, 64, seed=seed).clip(0, 10))
    table = {
        "model": "nano",
        "model_overrides": TINY,
        "steps": 4,
        "device": "cpu",
        "data": data,
        "log_every": 2,
        "sample_every": 2,
        "sample_lines": 48,
        "sample_frames": 5,
        "phases": [{"frames": 5, "crop": 32, "batch": 2}],
    }
    file.write_text(json.dumps(table))  # JSON is YAML
    out = tmp_path / "out"
    flags = ["--config", str(file), "--out", str(out), "--set", "optimizer.muon_lr=1e-3"]
    assert main([str(tmp_path / "clips"), *flags]) == 0
    assert capsys.readouterr().out.startswith(f"{out / 'model'}: nano after 4 steps")
    assert [line["step"] for line in lines(out)] == [0, 2]
    assert [line["step"] for line in lines(out, "validate")] == [2, 4]
    assert {"psnr", "psnr_first", "psnr_last", "entropy"} <= lines(out, "validate")[0].keys()
    assert cv2.imread(str(out / "sample_0000004.png")).shape == (48 + 4, 4 * 64, 3)
    assert cv2.imread(str(out / "curve.png")) is not None
    saved = torch.load(out / "last.pt", weights_only=True)
    model = streamtok.load(str(out / "model"))
    average = dict(zip([n for n, _ in model.named_parameters()], saved["average"]["shadow"], strict=True))
    for name, p in model.named_parameters():
        assert torch.equal(p, average[name].half().float())


@pytest.mark.timeout(900)  # a compiler at work, on a machine that may be busy
@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="needs a C++ compiler")
def test_the_compiled_norm_is_used_in_a_step_and_gone_after_it(tmp_path):
    run = config(tmp_path, compile=True)
    model, made_by = build_model(run).train(), []
    norm = next(layer for layer in model.modules() if isinstance(layer, Norm))
    norm.register_forward_hook(lambda module, args, y: made_by.append(y.grad_fn.name()))
    video = torch.rand(1, 3, 5, 32, 32) * 2 - 1
    TrainingStep(model, run)(0, video, None, {"l1": 1.0})
    model(video)
    norm._forward_hooks.clear()
    assert "CompiledFunctionBackward" in made_by[0]
    assert "CompiledFunctionBackward" not in made_by[-1]
    back = pickle.loads(pickle.dumps(model))
    assert torch.equal(back(video).reconstruction, model(video).reconstruction)


@pytest.mark.parametrize("where", ["weight", "loss"])
def test_nan_stops_with_the_step_and_the_tensor_and_spares_the_weights(tmp_path, where):
    run = config(tmp_path)
    model, calls = build_model(run), []
    target = model.decoder.conv_out.weight

    def poison(gradient):
        calls.append(1)
        return gradient * float("nan") if len(calls) == 4 else gradient

    def spoil(module, args, output):
        calls.append(1)
        return (output[0] * float("nan"), output[1]) if len(calls) == 4 else output

    if where == "weight":
        target.register_hook(poison)
    else:
        model.decoder.conv_out.register_forward_hook(spoil)
    with pytest.raises(NonFiniteTraining) as caught:
        train(run, model)
    assert caught.value.step == 3
    named = "gradient of 'decoder.conv_out.weight'" if where == "weight" else "loss 'l1'"
    assert named in str(caught.value)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_phases_change_losses_and_resume_is_exact(tmp_path):
    weights = {"l1": 1.0, "correlation": 0.05}
    settings = {
        "steps": 4,
        "losses": {"mse": 1.0},
        "phases": [
            {"until": 0.4, "frames": 5, "crop": 32, "batch": 1},
            {"until": 1.0, "frames": 5, "crop": 32, "batch": 1, "losses": weights},
        ],
    }
    whole, parts = (config(tmp_path / name, **settings) for name in ("whole", "parts"))
    train(whole, build_model(whole))
    train(parts, build_model(parts), stop_after=0)
    train(parts, build_model(parts), resume=True, stop_after=0)
    train(parts, build_model(parts), resume=True, stop_after=0)
    train(parts, build_model(parts), resume=True)
    first, second = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "parts"))
    for name in ("model", "optimizer", "average"):
        assert_same(first[name], second[name])
    named = {k.removeprefix("loss_") for k in lines(tmp_path / "whole")[-1] if k.startswith("loss_")}
    assert named == set(weights)
    assert "loss_l1" not in lines(tmp_path / "whole")[0]


def test_the_clock_ends_a_run_and_drives_the_cosine(tmp_path):
    run = config(tmp_path, steps=10**6, max_seconds=2.0)
    summary = train(run, build_model(run))
    assert summary.complete
    assert summary.steps < 10**6
    for line in lines(tmp_path):
        scale = cosine(line["step"], line["progress"], run.optimizer)
        assert line["lr_scale"] == pytest.approx(scale, rel=1e-3, abs=1e-5)
        assert line["phase"] == run.phase_at(line["progress"])


def test_a_continuous_tokenizer_trains_with_its_kl(tmp_path):
    vae = {**TINY, "quantizer": "vae", "latent_channels": 4}
    run = config(tmp_path, steps=3, model_overrides=vae, losses={"l1": 1.0, "kl": 1e-3})
    train(run, build_model(run))
    assert "loss_kl" in lines(tmp_path)[0]


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"stepz": 3}, 2, "stepz: unknown key (value 3); did you mean 'steps'"),
        ({"data": {"scale": [3]}}, 2, "data.scale: unknown key"),
        ({"phases": [{"until": 0.5}]}, 2, "end at 1.0"),
        ({"model": "nanoo"}, 2, "no preset"),
        ({"model_overrides": {"width": 3}}, 2, "model_overrides"),
        ({"steps": "many"}, 2, "steps: input should be a valid integer"),
        ({"optimizer": {"ema": "much"}}, 2, "optimizer.ema: input should be a valid number"),
        ({"data": {"paths": ["nothere"]}}, 2, "'nothere' is neither a folder nor a file"),
        ({}, 2, "no video or image in"),
        ({"data": {"paths": [CLIPS[0]], "holdout": ["gone"]}}, 2, "'gone' fits no clip"),
        ({"data": {"paths": [CLIPS[0]]}, "losses": {"l7": 1.0}}, 2, "unknown losses ['l7']"),
    ],
)
def test_mistakes_in_a_config_are_explained(tmp_path, capsys, change, status, message):
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps({"data": {"paths": [str(tmp_path)]}, **change}))
    assert main(["--config", str(file), "--out", str(tmp_path / "out")]) == status
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("streamtok train: ")
    assert message in error


def test_wrong_use_is_told_apart(tmp_path, capsys):
    assert main([]) == 2
    assert "nothing to train on: give videos" in capsys.readouterr().err
    assert main(["--resume", "--overwrite", "--set", "data.paths=[x]"]) == 2
    assert "choose one" in capsys.readouterr().err
    assert main(["--config", "x.yaml", "--set", "steps"]) == 2
    assert "KEY=VALUE" in capsys.readouterr().err
    assert main(["--config", str(tmp_path / "missing.yaml")]) == 2


def test_a_log_cut_off_by_a_crash_is_read_up_to_there(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"kind": "train", "step": 0, "loss_l1": 1.0}\n{"kind": "tra')
    assert [line["step"] for line in read_journal(tmp_path / "log.jsonl")] == [0]
    pytest.importorskip("matplotlib")
    assert plot_curves(tmp_path).exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("model", ["nano", "nano-p"])
@pytest.mark.parametrize("fused", [False, True])
def test_captured_steps_follow_the_eager_ones(tmp_path, model, fused):
    losses = []
    for name, captured in (("eager", False), ("captured", True)):
        settings = {"device": "cuda", "deterministic": False, "cuda_graph": captured, "compile": fused and captured}
        run = config(tmp_path / name, model=model, **settings)
        train(run, build_model(run))
        losses.append([line["loss_mse"] for line in lines(tmp_path / name)])
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
