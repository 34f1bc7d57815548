"""Saves and loads training checkpoints: all that the next step depends on, in one file, replaced atomically."""

import os
from dataclasses import asdict
from pathlib import Path

import torch

from streamtok.model.state import State
from streamtok.settings.errors import SettingsError
from streamtok.training.batches import Course
from streamtok.training.config import TrainConfig
from streamtok.training.step import TrainingStep

LAST = "last.pt"
PARTS = "model", "optimizer", "average"  # attributes of a TrainingStep


def prepare_folder(out: Path, resume: bool, overwrite: bool) -> None:
    """Create the folder of a run; SettingsError if a run in it would be lost, or if there is none to resume."""
    path = out / LAST
    if resume and not path.exists():
        raise SettingsError(f"nothing to resume: {path} does not exist; start without --resume")
    if path.exists() and not (resume or overwrite):
        raise SettingsError(
            f"{path} is the checkpoint of a run: go on from it with --resume, throw that run away with --overwrite, or "
            "give another folder with --out"
        )
    out.mkdir(parents=True, exist_ok=True)


def save_run(
    config: TrainConfig, step: TrainingStep, course: Course, state: State | None, position: dict[str, float]
) -> Path:
    """Write out/last.pt; `position` holds the next step, the phase and the seconds used."""
    path = Path(config.out) / LAST
    content = {name: getattr(step, name).state_dict() for name in PARTS}
    content |= {"position": position, "course": asdict(course), "state": state}
    content["run"] = {"model": config.model, "seed": config.seed}
    content["dtype"] = str(step.optimizer.dtype).removeprefix("torch.")  # resuming must not measure anew
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    os.replace(partial, path)
    return path


def load_run(config: TrainConfig, step: TrainingStep) -> tuple[Course, State | None, dict[str, float]]:
    """Load out/last.pt into `step` -> (course, carried state, position); SettingsError if it is another run's."""
    path = Path(config.out) / LAST
    content = torch.load(path, map_location=step.device, weights_only=True)
    run = {"model": config.model, "seed": config.seed}
    if content["run"] != run:
        raise SettingsError(f"{path} belongs to {content['run']}, the config says {run}; give another out folder")
    if config.dtype == "auto" and "dtype" in content:
        step.optimizer.dtype = getattr(torch, content["dtype"])
    for name in PARTS:
        getattr(step, name).load_state_dict(content[name])
    return Course(**content["course"]), content["state"], content["position"]
