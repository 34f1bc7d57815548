"""Copies models with some of their layers exchanged; the copies share all other weights."""

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

C = TypeVar("C", bound=nn.Conv2d)
M = TypeVar("M", bound=nn.Module)


def copy_module(module: M, **children: nn.Module) -> M:
    """A copy of `module` with other children of these names; it shares everything else, weights too."""
    copied = copy.copy(module)
    copied._modules = {**module._modules, **children}
    return copied


def copy_conv(conv: C, weight: Tensor, bias: Tensor) -> C:
    """A copy of a convolution with other weight (D, C, kh, kw) and bias (D,), cast to its precision, channels last."""
    copied, dtype = copy.copy(conv), conv.weight.dtype
    values = {"weight": weight.to(dtype).contiguous(memory_format=torch.channels_last), "bias": bias.to(dtype)}
    copied._parameters = {name: nn.Parameter(value, requires_grad=False) for name, value in values.items()}
    return copied


def exchange_modules(module: nn.Module, exchange: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """A copy of `module` in which `exchange` replaces sub-modules; it returns None for those that stay.

    The copy shares everything else, weights too. Children of a replaced module are not visited.
    """
    substitute = exchange(module)
    if substitute is not None:
        return substitute
    return copy_module(module, **{name: exchange_modules(child, exchange) for name, child in module.named_children()})
