"""An exported step, chained in ONNX Runtime, gives what a stream gives."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("onnxscript", reason="exporting needs: pip install onnx onnxscript onnxruntime")
pytest.importorskip("onnxruntime")

import streamtok
from streamtok.commands import export_model
from streamtok.config import PRESETS
from streamtok.exporting.formats import OnnxStep, export_step
from streamtok.exporting.step import ExportedStep
from tests.kit.models import ATTENTION, CONTINUOUS, IMAGE, SLIM, VIDEO, build

SIZE = 32, 48
PREDICTIVE = SLIM.__class__(**SLIM.to_dict() | {"predictive": True})


def export(tokenizer, direction, folder):
    path = folder / f"{direction}.onnx"
    facts = export_step(ExportedStep(tokenizer, direction, SIZE), path, "onnx")
    assert json.loads((folder / f"{direction}.onnx.json").read_text()) == facts
    assert OnnxStep(path).facts.items() <= facts.items()
    return OnnxStep(path, threads=1), facts


def groups_of(tokenizer, count):
    """Groups of frames uint8 (1, G, H, W, 3), smooth enough that no latent lies at a rounding edge by design."""
    torch.manual_seed(3)
    small = torch.rand(1, 3, count * tokenizer.group, 4, 6)
    clip = torch.nn.functional.interpolate(small, (count * tokenizer.group, *SIZE), mode="trilinear")
    frames = (clip * 255).byte().permute(0, 2, 3, 4, 1)
    return frames.split(tokenizer.group, 1)


def check(tokenizer, folder, count=6, second_keyframe=3):
    """Encode and decode `count` groups by both, with a keyframe in the middle; states and pictures as a stream's."""
    encode, facts = export(tokenizer, "encode", folder)
    decode, _ = export(tokenizer, "decode", folder)
    stream, pictures = tokenizer.stream(1, *SIZE), tokenizer.decode_stream(1, *tokenizer.config.grid(*SIZE))
    differing = compared = 0
    for number, group in enumerate(groups_of(tokenizer, count)):
        keyframe = number in (0, second_keyframe)
        out = stream.step(group.permute(0, 4, 1, 2, 3), keyframe=[keyframe])
        expected = out.tokens.squeeze(-3).numpy()
        found = encode.step(group.numpy(), keyframe)
        assert list(found.shape) == [1, *facts["grid"]]
        if out.indices is None:
            np.testing.assert_allclose(found, expected, atol=1e-4)
        differing, compared = differing + int((found != expected).sum()), compared + found.size
        shown = pictures.step(torch.from_numpy(expected).unsqueeze(-3), keyframe=[keyframe])
        pixels = shown.clamp(-1, 1).add(1).mul(127.5).round().permute(0, 2, 3, 4, 1).numpy()
        last = -1 if keyframe else slice(None)
        assert np.abs(decode.step(expected, keyframe)[:, last] - pixels[:, last]).max() <= 1
    assert tokenizer.config.discrete is False or differing <= compared / 1000


def test_steps_of_a_video_model_chain(tmp_path):
    """Its first resampling keeps no state, and a keyframe in the middle starts afresh."""
    check(build(VIDEO), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("config", [ATTENTION, CONTINUOUS, IMAGE, PREDICTIVE], ids=["attention", "ae", "image", "p"])
def test_steps_of_every_kind_chain(config, tmp_path):
    check(build(config), tmp_path, count=7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nano", "nano-p", "nano-r", "nano-pr"])
def test_the_command_compares_shipped_models(name, tmp_path, capsys):
    path = str(tmp_path / "step.onnx")
    for direction in ("encode", "decode"):
        arguments = [name, "--size", "64x96", "--direction", direction, "-o", path, "--groups", "16", "--json"]
        assert export_model.main(arguments) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["differing"] <= told["compared"] / 1000
        assert told["tokenizer"] == streamtok.load(name).fingerprint


@pytest.mark.slow
def test_a_published_size_exports(tmp_path):
    """The full-size DV4x8x8 with random weights, which do not matter here."""
    check(streamtok.model.build(PRESETS["cosmos-dv4x8x8"]), tmp_path, count=2, second_keyframe=0)


@pytest.mark.slow
def test_an_aoti_package_gives_the_same_tokens(tmp_path):
    tokenizer, path = build(VIDEO), tmp_path / "step.pt2"
    step = ExportedStep(tokenizer, "encode", SIZE)
    export_step(step, path, "aoti")
    run, state = torch._inductor.aoti_load_package(str(path)), step.example[2:]
    stream = tokenizer.stream(1, *SIZE)
    for number, group in enumerate(groups_of(tokenizer, 4)):
        tokens, *state = run(group.contiguous(), torch.tensor([number == 0]), *state)
        expected = stream.step(group.permute(0, 4, 1, 2, 3), keyframe=[number == 0]).indices
        assert (tokens != expected[:, 0]).float().mean() <= 1e-3


def test_a_size_off_the_grid_and_a_missing_extra_are_told(tmp_path, monkeypatch, capsys):
    assert export_model.main(["nano", "--size", "63x96", "-o", str(tmp_path / "a.onnx")]) != 0
    assert "63" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    assert export_model.main(["nano", "--size", "16x16", "-o", str(tmp_path / "a.onnx")]) == 1
    assert "pip install 'onnx" in capsys.readouterr().err
