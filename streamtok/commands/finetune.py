"""Fine-tune a tokenizer on your own videos, and report what it gains.

    streamtok finetune my/videos --minutes 3
    streamtok finetune drive.mp4 --model Cosmos-Tokenize1-DV4x8x8-360p --out out/mine --minutes 30

It holds out one video of five, or the last fifth of each if there are fewer than five. The folder `out` gets model/
(for --model of every command), sample_*.png, curve.png (PSNR on the held-out videos), log.jsonl and last.pt.
"""

import shlex
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from streamtok.commands.command import make_main
from streamtok.node.logs import log_to_stderr
from streamtok.settings.fields import Count, Device, Flag, Folder, Model, Positive, Switch, Texts, option
from streamtok.settings.shared import CommandSettings
from streamtok.training.config import TrainConfig

NODE = "tcp://127.0.0.1:5555"
ONE_OF = 5  # one video of five is held out, or a fifth of each
LINES = 256  # short side of the held-out pictures in pixels
RECIPE: dict[str, Any] = {
    "data": {"max_frames": 400, "strides": (1,), "reverse": 0.0, "brightness": 0.05},
    "optimizer": {"muon_lr": 3e-4, "adamw_lr": 3e-4, "warmup": 20, "ema": 0.98},
    "phases": [{"frames": 9, "crop": 96, "batch": 4}],
}


class FinetuneSettings(CommandSettings):
    """Flags of `streamtok finetune`."""

    videos: Annotated[Texts, Flag(positional=True), Field(min_length=1)] = Field(
        description="videos, or folders of them"
    )
    model: Model = option("nano", "what to start from: preset name or checkpoint folder")
    out: Annotated[Folder, Flag(short="-o")] = option(Path("out/finetune"), "folder for everything that is written")
    minutes: Annotated[Positive, Flag("MINUTES")] = option(3.0, "how long to train")
    steps: Count | None = option(None, "end after so many steps, if that is sooner")
    device: Device = option("auto", "where to train: auto, cpu, cuda or cuda:N")
    decoder_only: Switch = option(False, "train the decoder alone: tokens stay, recordings and models made of them fit")
    overwrite: Switch = option(False, "throw away the run that is in out")
    seed: int = 0


def run(settings: FinetuneSettings) -> int:
    """Fine-tune, and print the gain on the held-out videos; returns 0, also without a gain."""
    from streamtok.training.build import build_model, export_model
    from streamtok.training.loop import train

    log_to_stderr()
    config = plan_run(settings)
    model = build_model(config)
    name = model.config.name
    summary = train(config, model, overwrite=settings.overwrite)
    folder = export_model(model, config)
    before, after = summary.before["psnr"], summary.validation["psnr"]
    report = {"model": str(folder), "steps": summary.steps, "before": before, "after": after, "gain": after - before}
    lines = [f"{folder}: {name} after {summary.steps} steps; pictures and curve in {settings.out}"]
    lines += [f"held out: {after:.2f} dB, {before:.2f} dB before: {after - before:+.2f} dB"]
    if after <= before:
        lines += [f"it did not gain: go on with {settings.model}, or give it more --minutes or more videos"]
    first, made = shlex.quote(settings.videos[0]), f"--model {shlex.quote(str(folder))}"
    use = f"ingest --source /dev/video0 {made} --bind {NODE}"
    if settings.decoder_only:  # the node may keep its model, for tokens have not changed
        use = f"decode {NODE} {made} -o back.mp4"
    lines += ["use it with", f"  streamtok {use}", f"  streamtok reconstruct {first} {made}"]
    print(settings.format_result(report, "\n".join(lines)))
    return 0


def plan_run(settings: FinetuneSettings) -> TrainConfig:
    """The configuration of the training run."""
    from streamtok.training.footage import list_media

    paths = list_media(tuple(settings.videos))
    held = [Path(path).stem for path in paths[::ONE_OF]] if len(paths) >= ONE_OF else []
    data = RECIPE["data"] | {"paths": tuple(settings.videos), "holdout": tuple(held)}
    data |= {"scales": (LINES,), "holdout_tail": 0.0 if held else 1 / ONE_OF}
    values = RECIPE | {"data": data, "init": settings.model, "out": str(settings.out), "seed": settings.seed}
    values |= {"freeze": "encoder"} if settings.decoder_only else {}
    values |= {"device": settings.device, "max_seconds": 60 * settings.minutes, "steps": settings.steps or 1_000_000}
    values |= {"log_every": 20, "save_every": 200, "sample_every": 100, "sample_lines": LINES, "sample_frames": 33}
    return TrainConfig.model_validate(values)


main = make_main("finetune", FinetuneSettings, run, __doc__)
