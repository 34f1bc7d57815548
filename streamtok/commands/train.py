"""Train a tokenizer.

    streamtok train my/videos --config configs/train_nano.yaml --out out/nano
    streamtok train --config configs/train_nano.yaml --resume

Weights begin at random unless `init` names some; `streamtok finetune my/videos` goes on with trained ones. The config
says what to train, on which data and for how long (steps or seconds); --set overrides any of its keys, nested ones with
dots. --resume continues a stopped or killed run from its last checkpoint, bit-identically on a CPU. Without it, a
folder that holds a run is refused unless --overwrite is given. The folder `out` gets log.jsonl, curve.png,
sample_*.png, last.pt (for --resume) and model/ (for streamtok.load).
"""

from typing import Annotated

from pydantic import Field, model_validator

from streamtok.commands.command import make_main
from streamtok.node.logs import log_to_stderr
from streamtok.settings.fields import Flag, Switch, Texts, option
from streamtok.settings.shared import CommandSettings
from streamtok.training.config import TrainConfig


class TrainSettings(CommandSettings, TrainConfig):
    """A training run and how it begins; all that has no flag here is set by the config and --set."""

    # stays empty: a flag's value goes to the key that its alias names
    videos: Annotated[Texts, Flag("VIDEOS", positional=True)] = Field(
        default=[], alias="data.paths", description="videos, or folders of them; overrides data.paths of the config"
    )
    out: Annotated[str, Flag("DIR", short="-o")] = option("out/train", "folder for everything the run writes")
    resume: Switch = option(False, "go on from out/last.pt")
    overwrite: Switch = option(False, "throw away the run that is in out, and begin anew")
    stop_after: Annotated[float, Flag("SECONDS")] | None = option(None, "save and stop early, to be resumed later")

    @model_validator(mode="after")
    def check_together(self) -> "TrainSettings":
        """Raise ValueError if there is nothing to train on, or flags contradict each other."""
        if not self.data.paths:
            raise ValueError("nothing to train on: give videos, or folders of them, or data.paths in --config FILE")
        if self.resume and self.overwrite:
            raise ValueError("resume goes on with the run that is in out, overwrite throws it away: choose one")
        return self


def run(settings: TrainSettings) -> int:
    """Train, and export the model; returns 0."""
    from streamtok.training.build import build_model, export_model
    from streamtok.training.loop import train

    log_to_stderr()
    model = build_model(settings)
    summary = train(
        settings, model, resume=settings.resume, overwrite=settings.overwrite, stop_after=settings.stop_after
    )
    words = f"{export_model(model, settings)}: {model.config.name} after {summary.steps} steps; curve in {settings.out}"
    print(settings.format_result(vars(summary), words))
    return 0


main = make_main("train", TrainSettings, run, __doc__)
