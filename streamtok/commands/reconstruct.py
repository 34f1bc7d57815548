"""Encode and decode many videos or images in one go, and report the PSNR.

    streamtok reconstruct 'videos/*.mp4' --model nano --out out/reconstructed
    streamtok reconstruct --video_pattern 'videos/*.mp4' --output_dir out --dtype float32 \\
        --checkpoint_enc Cosmos-Tokenize1-DV4x8x8-360p/encoder.jit \\
        --checkpoint_dec Cosmos-Tokenize1-DV4x8x8-360p/decoder.jit

The second form has the flags of Cosmos' video_cli and image_cli. State is kept through a video; --temporal_window 17
resets it every 17 frames, as those commands do.
"""

import glob
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator
from tqdm import tqdm

from streamtok.commands.command import make_main
from streamtok.config import PRESETS
from streamtok.io.suffixes import is_image, is_video
from streamtok.settings.fields import Count, Device, File, Flag, Folder, Model, Positive, Switch, Texts, option
from streamtok.settings.shared import CommandSettings

if TYPE_CHECKING:
    from streamtok.model import Tokenizer


class ReconstructSettings(CommandSettings):
    """Flags of `streamtok reconstruct`."""

    sources: Annotated[Texts, Flag(positional=True)] = Field(
        default=[], description="videos, images, folders of these, or patterns in quotes"
    )
    pattern: Annotated[str, Flag("PATTERN", short="--image_pattern", long="--video_pattern")] | None = option(
        None, "one more source"
    )
    out: Annotated[Folder, Flag(short="--output_dir")] = option(Path("reconstructions"), "folder to write to")
    model: Model = option("nano", "preset name or checkpoint folder")
    checkpoint: Annotated[File, Flag(long="--checkpoint")] | None = option(None, "a published autoencoder.jit")
    checkpoint_enc: Annotated[File, Flag(long="--checkpoint_enc")] | None = option(None, "a published encoder.jit")
    checkpoint_dec: Annotated[File, Flag(long="--checkpoint_dec")] | None = option(None, "a published decoder.jit")
    tokenizer_type: Annotated[str, Flag("NAME", long="--tokenizer_type")] | None = option(
        None, "type of the checkpoint, such as DV4x8x8-360p (default: by its folder's name)"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = option("float32", "precision of the network")
    device: Device = option("auto", "where the network runs: auto, cpu, cuda or cuda:N")
    short_size: Annotated[Count, Flag(long="--short_size")] | None = option(
        None, "resize the shorter side to this first"
    )
    temporal_window: Annotated[Count, Flag(long="--temporal_window")] | None = option(
        None, "start afresh every N frames (default: never)"
    )
    output_fps: Annotated[Positive, Flag("FPS", long="--output_fps")] | None = option(
        None, "frame rate of the written videos (default: the source's)"
    )
    save_input: Annotated[Switch, Flag(long="--save_input")] = option(False, "also write what went in, as NAME_input")
    quiet: Switch = option(False, "no progress bar")

    @model_validator(mode="after")
    def check_together(self) -> "ReconstructSettings":
        """Raise ValueError if there is nothing to reconstruct, or two models are named."""
        if not self.sources and self.pattern is None:
            raise ValueError("nothing to reconstruct: give videos, images, folders or a pattern in quotes")
        if "model" in self.model_fields_set and self.files:
            raise ValueError("model and checkpoint say twice what to load: give one of them")
        return self

    @property
    def files(self) -> list[Path]:
        """The published checkpoint files to load."""
        return [file for file in (self.checkpoint, self.checkpoint_enc, self.checkpoint_dec) if file is not None]


def run(settings: ReconstructSettings) -> int:
    """Reconstruct every source; returns 1 if one of them failed."""
    from streamtok.compat.reconstruct import output_name, reconstruct_file

    sources = find_sources(settings.sources + ([settings.pattern] if settings.pattern else []))
    outs = {source: output_name(source, settings.out) for source in sources}
    clashing = [source for source in sources if list(outs.values()).count(outs[source]) > 1]
    if clashing:
        raise ValueError(f"{', '.join(clashing[:4])} would be written to one file, {outs[clashing[0]]}: rename them")
    tok = load_model(settings)
    settings.out.mkdir(parents=True, exist_ok=True)
    options = settings.model_dump(include={"short_size", "temporal_window", "output_fps", "save_input"})
    done, failed = [], {}
    for source in tqdm(sources, "reconstruct", unit="file", disable=settings.quiet or None):
        try:
            done.append(reconstruct_file(tok, source, outs[source], **options))
        except (OSError, ValueError) as error:
            failed[source] = str(error)
    print_results(settings, tok, [asdict(one) for one in done], failed)
    return 1 if failed else 0


def find_sources(given: list[str]) -> list[str]:
    """List the files that paths, folders and patterns name, each once; ValueError for one that names none."""
    found: list[str] = []
    for text in given:
        if Path(text).is_dir():
            here = [str(path) for path in sorted(Path(text).iterdir()) if is_video(path) or is_image(path)]
        else:
            here = [text] if text.startswith("synthetic:") else sorted(glob.glob(text, recursive=True))
        if not here:
            raise ValueError(f"{text!r} names no video and no image")
        found += here
    return list(dict.fromkeys(found))


def load_model(settings: ReconstructSettings) -> "Tokenizer":
    """Load the tokenizer in its precision on its device; float32 on a CPU uses our own layers."""
    import torch

    from streamtok.checkpoint import from_cosmos
    from streamtok.checkpoint.variants import find_variant
    from streamtok.engine.loading import load, pick_device

    config = None
    if settings.tokenizer_type is not None:
        variant = find_variant(settings.tokenizer_type)
        if variant is None or not settings.files:
            raise ValueError(f"tokenizer_type {settings.tokenizer_type!r} is of a published checkpoint: give its files")
        config = PRESETS[variant]
    loaded = from_cosmos(settings.files, config) if settings.files else settings.model
    if settings.dtype == "float32":
        return load(loaded, engine="default", device=settings.device)
    return load(loaded).cast(getattr(torch, settings.dtype), pick_device(settings.device))


def print_results(settings: ReconstructSettings, tok: "Tokenizer", done: list[dict], failed: dict[str, str]) -> None:
    """Print the reconstructed files with their PSNR, and the failures."""
    mean = round(fmean(one["psnr"] for one in done), 3) if done else None
    facts = {"model": tok.config.name, "dtype": settings.dtype, "psnr": mean, "files": done, "failed": failed}
    lines = ["{out}: {frames} frames of {size[0]}x{size[1]}, {psnr:.2f} dB".format(**one) for one in done]
    if done:
        lines += [f"{len(done)} files, {mean:.2f} dB on average, {done[0]['bits_per_pixel']:g} bits a pixel"]
    if done or settings.as_json:
        print(settings.format_result(facts, "\n".join(lines)))
    for source, reason in failed.items():
        print(f"streamtok reconstruct: {source}: {reason}", file=sys.stderr)


main = make_main("reconstruct", ReconstructSettings, run, __doc__)
