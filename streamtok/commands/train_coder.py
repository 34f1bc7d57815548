"""Train the token coder of a tokenizer on the tokens of videos, in minutes on a CPU.

    streamtok train-coder nano --data my/videos --holdout drive_07 --out out/nano_coder
    streamtok train-coder runs/mine/model --data my/videos

It writes coder.safetensors into --out (default: the tokenizer's own folder), where `ingest --compression coded` finds
it. To judge it, the first 33 frames of each clip in --holdout are coded and decoded again. So is the clip's first
picture, shown for 65 frames. The bits per token are printed.
"""

import functools
import sys
from pathlib import Path
from statistics import fmean
from typing import Annotated

from pydantic import Field

from streamtok.coding.coder import save_coder
from streamtok.commands.command import make_main
from streamtok.settings.fields import Count, Flag, Folder, Model, Whole, option
from streamtok.settings.shared import CommandSettings


class TrainCoderSettings(CommandSettings):
    """Flags of `streamtok train-coder`."""

    model: Annotated[Model, Flag(positional=True)] = Field(description="preset name or checkpoint folder")
    data: Annotated[list[str], Flag("PATH"), Field(min_length=1)] = Field(
        description="a folder of videos, a video or synthetic:... (repeat it)"
    )
    holdout: Annotated[list[str], Flag("NAME")] = option([], "keep clips whose names begin like this to judge by")
    out: Annotated[Folder, Flag(short="-o")] | None = option(None, "folder to write to (default: the model's)")
    frames: Count = option(300, "frames of each file at most")
    steps: Count = option(3000, "training steps; 3,000 take six minutes on one core")
    seed: Whole = option(0, "seed of the first weights and of the order of the data")


def run(settings: TrainCoderSettings) -> int:
    """Train a token coder, and write it to --out or beside the weights; returns 0."""
    from streamtok.checkpoint import WEIGHTS
    from streamtok.engine.loading import load
    from streamtok.training.coder_loop import judge_views, train_on_files
    from streamtok.training.footage import list_media, split_holdout

    paths, held = split_holdout(list_media(tuple(settings.data)), tuple(settings.holdout))
    tokenizer = load(settings.model, engine="default", device="cpu")
    if tokenizer.config.quantizer != "fsq":
        raise ValueError(f"{settings.model} has tokens of another kind: the token coder is for FSQ")
    shipped = WEIGHTS / settings.model
    folder = settings.out or (shipped if shipped.is_dir() else Path(settings.model))
    folder.mkdir(parents=True, exist_ok=True)
    say = functools.partial(print, file=sys.stderr, flush=True)
    coder = train_on_files(tokenizer, paths, settings.frames, settings.steps, settings.seed, say)
    save_coder(coder, folder)
    judged = judge_views(coder, tokenizer, held)
    facts = {"out": str(folder), "fingerprint": coder.fingerprint} | judged
    tables = [format_clips(name, rows) for name, rows in judged.items()]
    words = "\n".join([*filter(None, tables), f"{folder}: token coder {coder.fingerprint}"])
    print(settings.format_result(facts, words))
    return 0


def format_clips(name: str, rows: dict[str, dict[str, float]]) -> str:
    """A Markdown table of bits per token by clip, with the means over clips; empty without clips."""
    from streamtok.evaluation.report import format_table

    if not rows:
        return ""
    names = list(next(iter(rows.values())))
    means = {"mean": {column: fmean(row[column] for row in rows.values()) for column in names}}
    cells = [[clip, *(f"{row[column]:.2f}" for column in names)] for clip, row in (rows | means).items()]
    return format_table([f"bits per token, {name}", *names], cells) + "\n"


main = make_main("train-coder", TrainCoderSettings, run, __doc__)
