"""Weights of a tokenizer as the start of a predictive one, which then has only the closed loop to learn."""

import torch
from torch import Tensor

from streamtok.config import TokenizerConfig
from streamtok.model import Tokenizer, build
from streamtok.model.wavelet import band_order

GATE = -2.0  # bias of new gates: they let little of the reference through, as the source did
MIX = 0.1  # of the usual size: how strongly the reference's features start
BANDED = {  # the axis along which a weight meets wavelet bands; a predictive model has more of them
    "encoder.conv_in.spatial.weight": 1,
    "decoder.conv_out.weight": 0,
    "decoder.conv_out.bias": 0,
}


def close_loop(source: Tokenizer, config: TokenizerConfig) -> Tokenizer:
    """A predictive tokenizer of `config` that starts as nearly the tokenizer `source`; new inputs start at zero.

    ValueError when a weight of the source has no counterpart, or one of another size.
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


def _copy_weight(name: str, target: Tensor, value: Tensor, channels: Tensor) -> None:
    """`value` into `target`, and where it meets bands only into the `channels` (C,) int64 that both models have."""
    axis, part = BANDED.get(name), target
    if axis is not None:
        value = value.index_select(axis, channels)
        part = target.zero_().narrow(axis, 0, min(target.shape[axis], value.shape[axis]))
    if part.shape != value.shape:
        raise ValueError(f"{name} is {tuple(target.shape)}, the weights to start from have {tuple(value.shape)}")
    part.copy_(value)
