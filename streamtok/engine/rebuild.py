"""Models with some of their layers exchanged."""

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def copy_module(module: M, **children: nn.Module) -> M:
    """A copy of `module` with other children of these names; it shares everything else, weights too."""
    copied = copy.copy(module)
    copied._modules = {**module._modules, **children}
    return copied


def exchange_modules(module: nn.Module, exchange: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """A copy of `module` in which every part that `exchange` has a substitute for is that substitute.

    It shares everything else, weights too. Parts of what was exchanged are not asked about.
    """
    substitute = exchange(module)
    if substitute is not None:
        return substitute
    return copy_module(module, **{name: exchange_modules(child, exchange) for name, child in module.named_children()})
