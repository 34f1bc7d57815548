"""The model of a run: a preset by name with overrides, from random weights or a checkpoint, and its export."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from streamtok.checkpoint import load_checkpoint, save
from streamtok.config import PRESETS
from streamtok.model import Tokenizer, build
from streamtok.settings.errors import SettingsError
from streamtok.training.config import TrainConfig
from streamtok.training.optimizer import band_scale
from streamtok.training.transfer import close_loop


def build_model(config: TrainConfig) -> Tokenizer:
    """A tokenizer with weights seeded by the config, or those of `config.init`; SettingsError for an unknown preset.

    A predictive model can start from the weights of one that is not.
    """
    if config.model not in PRESETS:
        raise SettingsError(f"model {config.model!r} is no preset; presets: {', '.join(PRESETS)}")
    torch.manual_seed(config.seed)
    overrides: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config.model_overrides.items()}
    try:
        sizes = replace(PRESETS[config.model], **overrides)
    except TypeError as error:
        raise SettingsError(f"model_overrides: {error}") from error
    if config.init:
        source = load_checkpoint(config.init)
        closes = sizes.predictive and not source.config.predictive
        return close_loop(source, sizes) if closes else source
    model = build(sizes)
    weights = dict(model.named_parameters())
    first = "encoder.conv_in.spatial.weight" if model.config.video else "encoder.conv_in.weight"
    with torch.no_grad():
        weights[first].mul_(band_scale(sizes))  # as for orthonormal bands, see `band_rate`
    for parameter in model.decoder.conv_out.parameters():  # start from a grey picture, not from loud noise
        torch.nn.init.zeros_(parameter)
    return model


def export_model(model: Tokenizer, path: Path) -> None:
    """Write weights and config where `streamtok.load` finds them, in float16."""
    save(model, path, dtype=torch.float16)
