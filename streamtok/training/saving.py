"""Saves and loads training checkpoints: all that the next step depends on, in one file, replaced atomically."""

import os
from dataclasses import asdict, dataclass, field
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


@dataclass
class Progress:
    """How far a run has come: what its next step depends on besides weights, optimizer and data."""

    step: int = 0  # number of the next one
    phase: int = 0
    seconds: float = 0.0  # used, over all resumes
    course: Course = field(default_factory=Course)
    state: State | None = None  # of the current clips, if they continue in the next step


def save_run(config: TrainConfig, training: TrainingStep, progress: Progress) -> Path:
    """Write out/last.pt; returns its path."""
    path = Path(config.out) / LAST
    content = {name: getattr(training, name).state_dict() for name in PARTS}
    content["position"] = {"step": progress.step, "phase": progress.phase, "seconds": progress.seconds}
    content |= {"course": asdict(progress.course), "state": progress.state}
    content["run"] = {"model": config.model, "seed": config.seed}
    content["dtype"] = str(training.optimizer.dtype).removeprefix("torch.")  # resuming must not measure anew
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    os.replace(partial, path)
    return path


def load_run(config: TrainConfig, training: TrainingStep) -> Progress:
    """Load out/last.pt into `training`; returns how far the run has come. SettingsError if it is another run's."""
    path = Path(config.out) / LAST
    content = torch.load(path, map_location=training.device, weights_only=True)
    run = {"model": config.model, "seed": config.seed}
    if content["run"] != run:
        raise SettingsError(f"{path} belongs to {content['run']}, the config says {run}; give another out folder")
    if config.dtype == "auto" and "dtype" in content:  # runs of 0.1.0 lack it
        training.optimizer.dtype = getattr(torch, content["dtype"])
    for name in PARTS:
        getattr(training, name).load_state_dict(content[name])
    return Progress(**content["position"], course=Course(**content["course"]), state=content["state"])
