"""Evaluate a tokenizer on videos or pictures: a report in Markdown and JSON with a contact sheet.

    streamtok evaluate clips/ --model nano --baselines --out out/evaluation
    streamtok evaluate DAVIS/ --model runs/mine --lines native
    streamtok evaluate val2017/ --images --inception inception-2015-12-05.pt

PLACES are folders (any tree of videos, DAVIS with its JPEGImages, or pictures) and files. The first 33 frames of each
clip are evaluated, at 256 lines by default. Unreadable files are named and skipped; damaged frames are left out and
counted.
"""

import itertools
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

import streamtok
from streamtok.coding.library import find_coder
from streamtok.commands.command import command
from streamtok.commands.flags import parse_settings
from streamtok.settings.fields import (
    HOLD_HELP,
    Count,
    Device,
    File,
    Flag,
    Folder,
    Hold,
    Model,
    Paths,
    Switch,
    Whole,
    option,
)
from streamtok.settings.shared import CommandSettings

NATIVE = "native"


def read_lines(value: object) -> int | None:
    """Parse a short side in pixels; None for `native`, the clip's own."""
    text = str(value)
    if value is None or text == NATIVE:
        return None
    if not text.isdecimal() or int(text) < 8:
        raise ValueError(f"expected a number of pixels of 8 or more, or {NATIVE!r}")
    return int(text)


class EvaluateSettings(CommandSettings):
    """Flags of `streamtok evaluate`."""

    places: Annotated[Paths, Flag("PLACE", positional=True)] = Field(description="folders, videos or pictures")
    model: Model = option("nano", "preset name, checkpoint folder or Cosmos checkpoint")
    lines: Annotated[int | None, BeforeValidator(read_lines), Flag("LINES")] = option(
        256, f"short side in pixels, or {NATIVE!r}"
    )
    frames: Count = option(33, "frames of each clip at most")
    hold: Hold = option(0.0, HOLD_HELP)
    images: Switch = option(False, "every picture is its own clip")
    sequences: Switch = option(False, "a folder of pictures is one clip")
    baselines: Switch = option(False, "x264 and x265 at equal bits, grid average, the net without rounding")
    drift: Annotated[Whole, Flag("GROUPS")] = option(0, "drift of a bfloat16 receiver after so many groups (slow)")
    no_motion: Switch = option(False, "leave out flicker and warping error")
    i3d: File | None = option(None, "TorchScript I3D, for rFVD")
    inception: File | None = option(None, "TorchScript Inception, for rFID")
    video: Switch = option(False, "also write side_by_side.mp4")
    device: Device = option("auto", "auto, cpu, cuda or cuda:N")
    out: Annotated[Folder, Flag(short="-o")] = option(Path("out/evaluation"), "folder of the report")

    @model_validator(mode="after")
    def check_together(self) -> "EvaluateSettings":
        """Raise ValueError if both --images and --sequences are given."""
        if self.images and self.sequences:
            raise ValueError("images makes every picture a clip, sequences a folder of them: choose one")
        return self


@command("evaluate")
def main(argv: list[str] | None = None) -> int:
    """Run one evaluation; returns 0 with a report, 1 if nothing could be evaluated."""
    settings = parse_settings(EvaluateSettings, "evaluate", __doc__, argv)
    arguments = sys.argv[1:] if argv is None else argv
    values, lines = evaluate(settings, shlex.join(["streamtok", "evaluate", *arguments]))
    print(settings.format_result(values, "\n".join(lines)))
    return 0


def evaluate(settings: EvaluateSettings, command_line: str) -> tuple[dict[str, Any], list[str]]:
    """Load the model, run the suite and write the report; returns its values and its main lines."""
    from streamtok.engine.loading import pick_device
    from streamtok.evaluation.dataset import ClipSet, find_clips
    from streamtok.evaluation.report import Run, format_scores, write_report
    from streamtok.evaluation.suite import SuiteOptions, run_suite

    device = str(pick_device(settings.device))
    tok = streamtok.load(settings.model).to(device)
    config = tok.config
    files = find_clips(settings.places, images=False if settings.sequences else settings.images or None)
    clips = ClipSet(files, settings.lines, settings.frames, config.spatial_compression, config.temporal_compression)
    options = SuiteOptions(
        **settings.model_dump(include={"baselines", "i3d", "inception", "hold"}),
        motion=not settings.no_motion,
        steps=settings.lines is None,
        drift_groups=settings.drift,
        coder=find_coder(tok.fingerprint, Path(settings.model)),
        side_by_side=settings.out / "side_by_side.mp4" if settings.video else None,
    )
    done = itertools.count(1)

    def tell(name: str) -> None:
        print(f"[{min(next(done), len(files))}/{len(files)}] {name}", file=sys.stderr, flush=True)

    result = run_suite(tok, clips, options, tell)
    run_facts = Run(command_line, settings.model, tok.fingerprint, device, settings.lines, settings.frames)
    paths = write_report(settings.out, result, run_facts)
    paths += [options.side_by_side] if options.side_by_side else []
    lines = [*format_scores(result), *(f"skipped {name}: {why}" for name, why in clips.skipped.items())]
    lines += [f"{name}: {count} damaged frames left out" for name, count in clips.damaged.items()]
    return {"run": run_facts.to_dict(), **result.to_dict()}, [*lines, *(f"wrote {path}" for path in paths)]
