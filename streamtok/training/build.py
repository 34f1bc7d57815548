"""Builds the model of a run, a preset with overrides, from random weights or a checkpoint, and exports it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from streamtok.checkpoint import load_checkpoint, save
from streamtok.config import PRESETS, TokenizerConfig
from streamtok.model import Tokenizer, build
from streamtok.model.fingerprint import HALVES
from streamtok.model.wavelet import band_order
from streamtok.settings.errors import SettingsError
from streamtok.training.config import TrainConfig
from streamtok.training.optimizer import band_scale

GATE = -2.0  # bias of new gates: they let little of the reference through, because the source had none
MIX = 0.1  # scale of the initial weights that mix the reference in
BANDED = {  # the axis of a weight that counts wavelet bands; a predictive model has more bands
    "encoder.conv_in.spatial.weight": 1,
    "decoder.conv_out.weight": 0,
    "decoder.conv_out.bias": 0,
}


def build_model(config: TrainConfig) -> Tokenizer:
    """A tokenizer with random weights, seeded by the config, or with those of `config.init`.

    A predictive model can start from the weights of a plain one, and a decoder from a larger one. Weights named by
    `config.freeze` take no gradients. SettingsError for an unknown preset, or if init and model differ in architecture.
    """
    model = _build_trainable(config)
    if config.freeze is None:
        return model
    if not config.init:
        raise SettingsError(f"freeze is {config.freeze}, but there is nothing to keep: give init, a checkpoint")
    if model.config.closed_loop or model.quantizer.state_dict():
        why = "with its decoder" if model.config.closed_loop else "with a quantizer that learns"
        raise SettingsError(
            f"freeze is {config.freeze}, which leaves tokens as they are; {model.config.name!r} makes its tokens "
            f"{why}: train all of it"
        )
    for name in HALVES[config.freeze]:
        model.get_submodule(name).requires_grad_(False)
    return model


def _build_trainable(config: TrainConfig) -> Tokenizer:
    """The tokenizer of a run, all of whose weights take gradients."""
    torch.manual_seed(config.seed)
    if not config.init:
        return _build_anew(_choose_sizes(config))
    source = load_checkpoint(config.init)
    if "model" not in config.model_fields_set and not config.model_overrides:
        return source
    sizes = _choose_sizes(config)
    try:
        if sizes.predictive and not source.config.predictive:
            return close_loop(source, sizes)
        differing = _list_differences(sizes, source.config)
        if not differing:
            return source
        if differing == ["corrections"] and sizes.corrections:
            return add_corrector(source, sizes)
        if set(differing) <= {"decoder_blocks", "decoder_channels"}:
            return cut_decoder(source, sizes)
    except ValueError as error:
        theirs = f"{{decoder_channels: {list(source.config.decoder_channels)}, decoder_blocks: "
        theirs += f"{list(source.config.decoder_blocks)}}}"
        raise SettingsError(f"init does not fit: {error}; its decoder has model_overrides: {theirs}") from error
    raise SettingsError(
        f"init {config.init!r} and model {config.model!r} are two architectures (they differ in "
        f"{', '.join(differing)}): leave out model and model_overrides to go on with init's"
    )


def _choose_sizes(config: TrainConfig) -> TokenizerConfig:
    """The preset of a run with its overrides; SettingsError for an unknown preset or override."""
    if config.model not in PRESETS:
        raise SettingsError(f"model {config.model!r} is no preset; presets: {', '.join(PRESETS)}")
    overrides: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config.model_overrides.items()}
    try:
        return replace(PRESETS[config.model], **overrides)
    except TypeError as error:
        raise SettingsError(f"model_overrides: {error}") from error


def _list_differences(ours: TokenizerConfig, theirs: TokenizerConfig) -> list[str]:
    """The names of the fields in which two configurations differ, sorted."""
    one, other = ours.to_dict(), theirs.to_dict()
    return [name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]


def _build_anew(sizes: TokenizerConfig) -> Tokenizer:
    """A tokenizer with random weights."""
    model = build(sizes)
    weights = dict(model.named_parameters())
    first = "encoder.conv_in.spatial.weight" if model.config.video else "encoder.conv_in.weight"
    with torch.no_grad():
        weights[first].mul_(band_scale(sizes))  # as for orthonormal bands, see `band_rate`
    for parameter in model.decoder.conv_out.parameters():  # start from a grey picture, not from loud noise
        torch.nn.init.zeros_(parameter)
    return model


def close_loop(source: Tokenizer, config: TokenizerConfig) -> Tokenizer:
    """A predictive tokenizer of `config` that initially computes almost what `source` does; new inputs start at zero.

    ValueError if a weight of the source has no counterpart, or one of another size.
    """
    model, learnt = build(config), dict(source.named_parameters())
    weights = dict(model.named_parameters())
    bands = band_order(config.patch_size, "=thw")
    channels = (3 * bands[:, None] + torch.arange(3)).flatten()  # three colours of each band
    with torch.no_grad():
        for name, target in weights.items():
            if name in learnt:
                _copy_weight(name, target, learnt.pop(name), channels)
        weights["prediction.mix.weight"].mul_(MIX)
        weights["decoder.conv_out.bias"][len(channels) :] = GATE
    if learnt:
        raise ValueError(f"the model to train has no {', '.join(learnt)}, which the weights to start from have")
    return model


def add_corrector(source: Tokenizer, config: TokenizerConfig) -> Tokenizer:
    """A tokenizer of `config` with the weights of `source`. A new corrector changes nothing until it learns."""
    model = build(config)
    model.load_state_dict(model.state_dict() | source.state_dict())
    return model


def cut_decoder(source: Tokenizer, config: TokenizerConfig) -> Tokenizer:
    """A tokenizer of `config` whose decoder starts as a part of the `source`'s, with all other weights of the source.

    It takes the first blocks of each level. Of the finest level it takes the channels with the largest weights in the
    last convolution. ValueError if the decoder has more blocks than the source's, or other channels of the coarser
    levels.
    """
    (wide, *coarser), (fine, *same) = source.config.decoder_channels, config.decoder_channels
    if same != coarser or wide in coarser:
        raise ValueError(
            f"decoder_channels {list(config.decoder_channels)}, those to start from are {[wide, *coarser]}: "
            "only the first may be smaller"
        )
    model, learnt = build(config), source.state_dict()
    weight = learnt["decoder.conv_out.weight"]
    kept = weight.square().flatten(2).sum((0, 2)).topk(min(fine, wide)).indices.sort().values
    for name, target in model.state_dict().items():
        value = learnt.get(name, torch.empty(0))
        for axis in range(value.ndim):
            if value.shape[axis] == wide and target.shape[axis] == fine:
                value = value.index_select(axis, kept)
        if value.shape != target.shape:
            raise ValueError(f"the decoder to train has {name} {tuple(target.shape)}, the one to start from has not")
        target.copy_(value)
    return model


def _copy_weight(name: str, target: Tensor, value: Tensor, channels: Tensor) -> None:
    """Copy `value` into `target`; along an axis of bands only the `channels` (C,) int64 that both models have."""
    axis, part = BANDED.get(name), target
    if axis is not None:
        value = value.index_select(axis, channels)
        part = target.zero_().narrow(axis, 0, min(target.shape[axis], value.shape[axis]))
    if part.shape != value.shape:
        raise ValueError(f"{name} is {tuple(target.shape)}, the weights to start from have {tuple(value.shape)}")
    part.copy_(value)


def export_model(model: Tokenizer, config: TrainConfig) -> Path:
    """Write weights and config into the run's folder `model` for `streamtok.load`; returns its path.

    Weights are float16, or float32 if only a decoder was trained and rounding would change the frozen encoder. Then
    tokens and the fingerprint stay the same.
    """
    path = Path(config.out) / "model"
    source = load_checkpoint(config.init) if config.init and config.freeze else None
    weights = [] if source is None else source.state_dict().values()
    exact = all(torch.equal(weight, weight.half().to(weight.dtype)) for weight in weights)
    save(model, path, dtype=torch.float16 if exact else None, tokens_of=source)
    return path
