"""The recipes of the shipped weights follow each other, each from what the one before has written."""

from dataclasses import replace
from pathlib import Path

import pytest

import streamtok
from streamtok.commands import fit_refinement, train
from tests.kit.training import CLIPS

CONFIGS = Path(__file__).parents[2] / "configs"
SHORT = {
    "data.paths": f"[{', '.join(map(repr, CLIPS))}]",
    "data.holdout": "[]",
    "data.scales": "[48]",
    "phases": "[{until: 1.0, frames: 5, crop: 32, batch: 1}]",
    "steps": 1,
    "sample_frames": 5,
}


@pytest.fixture
def run_recipe(tmp_path, monkeypatch):
    """Runs one for a step, in a folder where `out/` is, and loads what it wrote."""
    monkeypatch.chdir(tmp_path)

    def run(name, **changes):
        flags = [text for key, value in (SHORT | changes).items() for text in ("--set", f"{key}={value}")]
        assert train.main(["--config", str(CONFIGS / f"train_{name}.yaml"), *flags, "--out", f"out/train_{name}"]) == 0
        return streamtok.load(f"out/train_{name}/model")

    return run


def test_nano_is_made_by_its_recipes(run_recipe, tmp_path):
    run_recipe("nano_cpu")
    (tmp_path / "out" / "train_nano_cpu").rename(tmp_path / "out" / "train_nano")  # what its own `out` says
    larger = run_recipe("nano_finish_cpu")
    (tmp_path / "out" / "train_nano_finish_cpu").rename(tmp_path / "out" / "train_nano_finish")
    smaller = run_recipe("nano_decoder_cpu")
    assert smaller.fingerprint == larger.fingerprint
    assert smaller.config == streamtok.load("nano").config != larger.config


@pytest.mark.parametrize("name", ["nano_p", "nano_p_cpu"])
def test_a_predictive_model_goes_on_from_the_nano_that_ships(run_recipe, name):
    assert run_recipe(name, cuda_graph="false", device="cpu").config == streamtok.load("nano-p").config


def test_a_corrector_is_added_to_what_the_recipe_before_has_written(run_recipe):
    """That is a model of the sizes that it began with, by the first command of train_nano_pr_cpu.yaml."""
    clip = "synthetic:128x128@30?seed=3&frames=20"
    start = "out/train_nano_pr/model"
    assert fit_refinement.main([clip, "--model", "nano-p", "--pictures", "1", "-o", start]) == 0
    before, after = streamtok.load(start).config, run_recipe("nano_pr_finish_cpu").config
    assert after == replace(before, corrections=2) != before
