"""Give a trained network refinement tokens: fit the codebooks by which a cell that stands still sharpens.

    streamtok fit-refinement clips/ --model nano --holdout cosmos_ar_4 sam2_coffee --out out/nano-r

The network and the tokens that redraw a cell stay as they are. Minutes on a CPU; the folder is for streamtok.load.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from streamtok.commands.command import make_main
from streamtok.node.logs import log_to_stderr
from streamtok.settings.fields import Count, Flag, Folder, Model, Texts, Whole, option
from streamtok.settings.shared import CommandSettings

CROP = 256  # pixels of the pictures that are held


class FitRefinementSettings(CommandSettings):
    """Flags of `streamtok fit-refinement`."""

    places: Annotated[Texts, Flag("PLACE", positional=True, nargs="+")] = Field(description="folders, videos, pictures")
    model: Model = option("nano", "the network: preset name or checkpoint folder")
    holdout: Annotated[Texts, Flag("NAME", nargs="+")] = option([], "clips whose names begin so are left out")
    words: Count = option(1536, "codewords; 16 bits leave 1536 beside 64,000 codes")
    pictures: Count = option(160, f"crops of {CROP}x{CROP} to fit to")
    seed: Whole = option(0, "of the crops and of the codebooks' start")
    out: Annotated[Folder, Flag(short="-o")] = option(Path("out/refinement"), "checkpoint folder to write")


def run(settings: FitRefinementSettings) -> int:
    """Fit the codebooks and write the refining model."""
    from dataclasses import replace

    import torch

    import streamtok
    from streamtok.checkpoint import save
    from streamtok.training.batches import Sampler
    from streamtok.training.config import DataConfig
    from streamtok.training.data import list_media, load_cache, split_holdout
    from streamtok.training.refinement import fit_refinement

    log_to_stderr()
    source = streamtok.load(settings.model)
    name = source.config.name if source.config.refinement else f"{source.config.name}-r"
    config = replace(source.config, name=name, refinement=settings.words)
    paths, _ = split_holdout(list_media(tuple(settings.places)), tuple(settings.holdout))
    data = DataConfig(scales=(CROP,), max_frames=16, stretch=1, brightness=0.0)
    sampler = Sampler(load_cache(paths, data, CROP, torch.device("cpu")), data, settings.seed)
    crops = [sampler.cut(sampler.draw(i, 1, 1, CROP), 0, 1, CROP)[:, :, 0] for i in range(settings.pictures)]
    model = fit_refinement(source, config, torch.cat(crops), settings.seed)
    save(model, settings.out, dtype=torch.float16)
    print(f"{settings.out}: {config.codebook_size:,} codes, fingerprint {streamtok.load(settings.out).fingerprint}")
    return 0


main = make_main("fit-refinement", FitRefinementSettings, run, __doc__)
