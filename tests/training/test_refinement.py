"""The way to a predictive model that refines, by its commands: codebooks, training, and codebooks anew."""

from pathlib import Path

import streamtok
from streamtok.commands import fit_refinement, train
from streamtok.model import PredictiveRefiningTokenizer

CLIP = "synthetic:256x256@30?seed=3&frames=40"
RECIPE = Path(__file__).parents[2] / "configs" / "train_nano_pr_cpu.yaml"


def test_a_predictive_model_learns_to_refine_by_the_shipped_recipe(tmp_path):
    start, run, end = (tmp_path / name for name in ("start", "run", "end"))
    fit = ["--words", "16", "--pictures", "1"]
    assert fit_refinement.main([CLIP, "--model", "nano-p", *fit, "-o", str(start)]) == 0
    settings = {"init": start, "data.paths": f"['{CLIP}']", "steps": 2, "data.scales": "[128]", "sample_frames": 5}
    phases = "phases=[{until: 1.0, frames: 9, crop: 64, batch: 1}]"
    changes = [text for key, value in settings.items() for text in ("--set", f"{key}={value}")]
    assert train.main(["--config", str(RECIPE), *changes, "--set", phases, "--out", str(run)]) == 0
    assert fit_refinement.main([CLIP, "--model", str(run / "model"), *fit, "-o", str(end)]) == 0
    begun, trained, fitted = (streamtok.load(folder) for folder in (start, run / "model", end))
    for model in (begun, trained, fitted):
        assert isinstance(model, PredictiveRefiningTokenizer)
    assert begun.post_quant_conv.weight[:, -1].abs().sum() == 0
    assert trained.post_quant_conv.weight[:, -1].abs().sum() > 0  # it has learned what a kept cell is
    assert fitted.config.name == trained.config.name
    kept = dict(trained.named_parameters())
    for name, weight in fitted.named_parameters():
        assert (weight == kept[name]).all(), name
