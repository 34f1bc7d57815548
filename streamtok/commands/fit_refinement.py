"""Add refinement tokens to a trained network: fit the codebooks that sharpen a cell whose picture stands still.

    streamtok fit-refinement clips/ --model nano --holdout cosmos_ar_4 sam2_coffee --out out/nano-r

The network and the tokens that redraw a cell do not change. It takes minutes on a CPU; streamtok.load reads the folder.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

import streamtok
from streamtok.commands.command import make_main
from streamtok.node.logs import log_to_stderr
from streamtok.settings.fields import Count, Flag, Folder, Model, Texts, Whole, option
from streamtok.settings.shared import CommandSettings

CROP = 256  # side in pixels of the still pictures to fit to


class FitRefinementSettings(CommandSettings):
    """Flags of `streamtok fit-refinement`."""

    places: Annotated[Texts, Flag("PLACE", positional=True, nargs="+")] = Field(description="folders, videos, pictures")
    model: Model = option("nano", "the network: preset name or checkpoint folder")
    holdout: Annotated[Texts, Flag("NAME", nargs="+")] = option([], "leave out clips whose names begin like this")
    words: Count = option(1536, "codewords; 16 bits leave 1536 beside 64,000 codes")
    pictures: Count = option(160, f"crops of {CROP}x{CROP} to fit to")
    seed: Whole = option(0, "seed of the crops and of the first codebooks")
    out: Annotated[Folder, Flag(short="-o")] = option(Path("out/refinement"), "checkpoint folder to write")


def run(settings: FitRefinementSettings) -> int:
    """Fit the codebooks and write the refining model."""
    import torch

    from streamtok.checkpoint import save
    from streamtok.training.refinement import draw_pictures, fit_refinement

    log_to_stderr()
    source = streamtok.load(settings.model)
    name = source.config.name if source.config.refinement else f"{source.config.name}-r"
    config = replace(source.config, name=name, refinement=settings.words)
    places, holdout = tuple(settings.places), tuple(settings.holdout)
    pictures = draw_pictures(places, holdout, settings.pictures, CROP, settings.seed)
    model = fit_refinement(source, config, pictures, settings.seed)
    save(model, settings.out, dtype=torch.float16)
    print(f"{settings.out}: {config.codebook_size:,} codes, fingerprint {streamtok.load(settings.out).fingerprint}")
    return 0


main = make_main("fit-refinement", FitRefinementSettings, run, __doc__)
