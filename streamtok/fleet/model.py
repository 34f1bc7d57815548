"""The tokenizer of a fleet: settled once, then loaded alike by every worker, so that all give the same tokens."""

from dataclasses import replace

import torch

from streamtok.engine.configuration import EngineConfiguration
from streamtok.engine.loading import default_engine, load, pick_device
from streamtok.engine.optimized import describe_engine
from streamtok.fleet.options import DriveOptions
from streamtok.model import Tokenizer
from streamtok.preprocessing.preprocessor import fit_rectangles
from streamtok.settings.errors import blame_settings


class FleetOptions(DriveOptions):
    """All that decides a drive's tokens: if it changes, the drive is done again. `engine`: see `settle_engine`."""

    engine: EngineConfiguration | None = None


def load_for_fleet(options: FleetOptions) -> Tokenizer:
    """Load the model on its device, with the options' threads; SettingsError if `size` is not on its grid."""
    torch.set_num_threads(options.threads)
    device = pick_device(options.device).type
    engine = options.engine or EngineConfiguration(device=device, threads=options.threads)
    engine = replace(engine, torch_version=torch.__version__)
    tokenizer = load(options.model, options.deterministic, engine=engine, device=options.device)
    check_on_grid(options, tokenizer)
    return tokenizer


def check_on_grid(options: FleetOptions, tokenizer: Tokenizer) -> None:
    """Raise SettingsError if the tokenizer's grid does not fit the options' size, as each drive would."""
    if options.size is not None:
        with blame_settings():
            fit_rectangles(options.size, options.size, options.fit, tokenizer.config.spatial_compression)


def settle_engine(options: FleetOptions, choice: str | None) -> FleetOptions:
    """Fix the engine configuration for all workers; `choice` is the value of `--engine`, as for `load`.

    Facts and measurements of this machine are left out, for drives are compared by what decides their tokens.
    """
    if options.deterministic or choice == "eager":
        return options
    tokenizer = load(options.model)
    check_on_grid(options, tokenizer)  # before anything is measured for it
    size = options.size or (256, 448)
    choice, threads = choice or default_engine(options.device), options.threads
    fast = load(tokenizer, engine=choice, size=size, device=options.device, threads=threads)
    engine = replace(describe_engine(fast).move_to(EngineConfiguration()), threads=threads)
    return options.model_copy(update={"engine": engine})
