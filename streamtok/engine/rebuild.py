"""Models with some of their layers exchanged."""

import copy
from collections.abc import Callable

from torch import nn


def rebuilt(module: nn.Module, exchange: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """A copy of `module` in which every part that `exchange` has a substitute for is that substitute.

    It shares everything else, weights too. Parts of what was exchanged are not asked about.
    """
    substitute = exchange(module)
    if substitute is not None:
        return substitute
    copied = copy.copy(module)
    children = module._modules.items()
    copied.__dict__["_modules"] = {name: child and rebuilt(child, exchange) for name, child in children}
    return copied
