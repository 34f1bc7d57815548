"""Weights of one tokenizer as the start of another: from an open loop to a closed one, and from there to motion."""

import torch
from torch import Tensor

from streamtok.config import TokenizerConfig
from streamtok.model import Tokenizer, build
from streamtok.model.wavelet import band_order

GATE = -2.0  # bias of new gates: they let little of the reference through, as the source did
BANDED = {  # the axis along which a weight meets wavelet bands; a predictive model has more of them
    "encoder.conv_in.spatial.weight": 1,
    "decoder.conv_out.weight": 0,
    "decoder.conv_out.bias": 0,
    "prediction.mix.weight": 1,
}


def transfer(source: Tokenizer, config: TokenizerConfig) -> Tokenizer:
    """A predictive tokenizer of `config` that starts as nearly the tokenizer `source`; new inputs start at zero.

    ValueError when a weight of the source has no counterpart, or one of another size.
    """
    model = build(config)
    learnt, order = dict(source.named_parameters()), None
    if not source.config.predictive:
        order = band_order(config.patch_size, "=thw").repeat_interleave(3) * 3
        order += torch.arange(3).repeat(len(order) // 3)  # three colours of each band
    with torch.no_grad():
        for name, target in model.named_parameters():
            if name in learnt:
                _place(name, target, learnt.pop(name), order)
            elif name == "prediction.mix.weight":
                target.mul_(0.1)
        if order is not None:
            model.decoder.conv_out.bias[len(order) :] = GATE
    if learnt:
        raise ValueError(f"the model to train has no {', '.join(learnt)}, which the weights to start from have")
    return model


def _place(name: str, target: Tensor, value: Tensor, order: Tensor | None) -> None:
    axis = BANDED.get(name)
    part = target
    if axis is not None:
        value = value if order is None else value.index_select(axis, order)
        part = target.zero_().narrow(axis, 0, min(target.shape[axis], value.shape[axis]))
    if part.shape != value.shape:
        raise ValueError(f"{name} is {tuple(target.shape)}, the weights to start from have {tuple(value.shape)}")
    part.copy_(value)
