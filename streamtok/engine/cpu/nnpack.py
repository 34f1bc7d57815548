"""3x3 convolutions with fewer products by NNPACK, a library that PyTorch contains.

It computes them by Winograd's F(6x6, 3x3) (Lavin and Gray 2015, section 4.1), a fifth of the products, in float32. It
reads and writes images as rows of pixels (N, C, H, W), where PyTorch's convolutions here are channels last. The choice
of layers depends on shapes alone, so a replay computes the same.
"""

from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamtok.engine.rebuild import exchange_modules
from streamtok.model.blocks import Stateless
from streamtok.model.encoder import StillConv
from streamtok.model.tokenizer import Tokenizer

WIDE = 16  # least C * D / (C + D) of a layer that gains, as measured (docs/performance.md)
LARGE = 400  # least pixels of an image that gains


class NnpackConv(nn.Module):
    """A 3x3 convolution with zero padding. x (N, C, H, W) -> (N, D, H, W), in rows of pixels if the image is large.

    ValueError if NNPACK cannot run here.
    """

    rows: Tensor

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        if not torch.backends.nnpack.is_available():  # which also starts it
            raise ValueError("convolutions are 'nnpack', which PyTorch does not have on this machine; use 'direct'")
        self.weight, self.bias = conv.weight, conv.bias
        self.register_buffer("rows", conv.weight.detach().contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> (N, D, H, W)."""
        if x.shape[2] * x.shape[3] < LARGE:
            return F.conv2d(x, self.weight, self.bias, padding=1)
        images = x.contiguous().split(1)  # for several at once NNPACK computes otherwise
        made = [torch._nnpack_spatial_convolution(image, self.rows, self.bias, 1) for image in images]
        return torch.cat(made) if len(made) > 1 else made[0]


class StillNnpackConv(Stateless, NnpackConv):  # type: ignore[misc]
    """`NnpackConv` with the stateless signature of `StillConv`."""


def use_nnpack(model: Tokenizer) -> Tokenizer:
    """A copy of the model with NNPACK for its wide 3x3 convolutions; it shares the rest, weights too."""
    return model.with_modules(**{name: exchange_wide(child) for name, child in model.named_children()}).eval()


def exchange_wide(module: nn.Module) -> nn.Module:
    """A copy of a module with NNPACK for its wide 3x3 convolutions. ValueError if NNPACK cannot run here."""

    def exchange(module: nn.Module) -> nn.Module | None:
        kind = StillNnpackConv if isinstance(module, StillConv) else NnpackConv
        return kind(module) if is_wide(module) else None

    return exchange_modules(module, exchange)


def is_wide(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether a module is a 3x3 convolution wide enough to gain from NNPACK."""
    if not isinstance(module, nn.Conv2d) or (module.kernel_size, module.stride) != ((3, 3), (1, 1)):
        return False
    return module.in_channels * module.out_channels >= WIDE * (module.in_channels + module.out_channels)
