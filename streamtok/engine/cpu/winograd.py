"""3x3 convolutions with a quarter of the products: Winograd's F(4x4, 3x3) (Lavin and Gray 2015, section 4.1).

A tile of 6x6 inputs is transformed to 36 points. Each point is multiplied by its own matrix of channels, and the 36
products are transformed to 4x4 outputs. Transforms cost memory passes proportional to the channels, products grow with
their square. So only wide layers and large images gain, and only these are exchanged. The choice depends on shapes
alone, so a replay computes the same.
"""

from collections.abc import Sequence
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamtok.engine.rebuild import exchange_modules
from streamtok.model.blocks import Stateless
from streamtok.model.encoder import StillConv
from streamtok.model.tokenizer import Tokenizer

TILE = 4  # outputs along each side
WIDE = 40  # least C * D / (C + D) of a layer that gains, as measured (docs/performance.md)
LARGE = 400  # least pixels of an image that gains
AT_ONCE = 700_000  # transformed inputs or products held at a time, so that they fit into a processor's cache

# The kernel transform, times 24: each of the six points weighs the three taps.
_TAPS_24 = ((6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 24))


class WinogradConv(nn.Module):
    """A 3x3 convolution with zero padding. x (N, C, H, W) -> (N, D, H, W)."""

    points: Tensor

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        taps = torch.tensor(_TAPS_24, dtype=torch.float64) / 24
        points = torch.einsum("pk,dckl,ql->pqcd", taps, conv.weight.detach().double(), taps)
        self.register_buffer("points", points.flatten(0, 1).to(conv.weight.dtype).contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> (N, D, H, W)."""
        count, channels, height, width = x.shape
        if height * width < LARGE:
            return F.conv2d(x, self.weight, self.bias, padding=1)
        down, across = -(-height // TILE), -(-width // TILE)
        far = TILE * across - width + 1, 1, TILE * down - height + 1
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, *far))  # (N, 4 * down + 2, 4 * across + 2, C)
        wide = self.weight.shape[0]
        y = padded.new_empty(count, down, TILE, across, TILE, wide)
        sums = 36 * count * down * across * max(channels, wide)
        for rows in torch.arange(down).chunk(-(-sums // AT_ONCE)):
            top, end = int(rows[0]), int(rows[-1]) + 1
            self._compute_tiles(padded[:, TILE * top : TILE * end + 2], y[:, top:end])
        return y.view(count, TILE * down, TILE * across, wide)[:, :height, :width].permute(0, 3, 1, 2)

    def _compute_tiles(self, padded: Tensor, out: Tensor) -> None:
        """padded (N, 4 * down + 2, 4 * across + 2, C) -> written into `out` (N, down, 4, across, 4, D)."""
        count, down, _, across, _, wide = out.shape
        channels = padded.shape[-1]
        rows = padded.new_empty(6, count, down, TILE * across + 2, channels)
        _add_inputs([padded[:, i : i + TILE * down - 3 : TILE] for i in range(6)], rows)
        sums = padded.new_empty(6, 6, count, down, across, channels)
        _add_inputs([rows[..., i : i + TILE * across - 3 : TILE, :] for i in range(6)], sums.transpose(0, 1))
        products = torch.bmm(sums.view(36, -1, channels), self.points).view(6, 6, count, down, across, wide)
        if self.bias is not None:
            products[1, 1] += self.bias.detach()  # each output contains this point once
        columns = products.new_empty(TILE, 6, count, down, across, wide)
        _add_outputs(products, columns)
        _add_outputs(columns.transpose(0, 1), out.permute(4, 2, 0, 1, 3, 5))


class StillWinogradConv(Stateless, WinogradConv):  # type: ignore[misc]
    """`WinogradConv` with the stateless signature of `StillConv`."""


def _add_inputs(x: Sequence[Tensor], out: Tensor) -> None:
    """The input transform of F(4, 3) along one axis: six neighbours, each (...), into out (6, ...)."""
    x0, x1, x2, x3, x4, x5 = x
    even, odd = torch.sub(x4, x2, alpha=4), torch.sub(x3, x1, alpha=4)
    torch.add(even, odd, out=out[1])
    torch.sub(even, odd, out=out[2])
    near, far = torch.sub(x4, x2, out=even), torch.sub(x3, x1, out=odd)
    torch.add(near, far, alpha=2, out=out[3])
    torch.sub(near, far, alpha=2, out=out[4])
    torch.add(near, x0 - x2, alpha=4, out=out[0])
    torch.sub(x5 - x3, far, alpha=4, out=out[5])


def _add_outputs(products: Tensor, out: Tensor) -> None:
    """The output transform of F(4, 3) along one axis: products (6, ...) into four neighbours, out (4, ...)."""
    p0, p1, p2, p3, p4, p5 = products
    even, odd, far_even, far_odd = p1 + p2, p1 - p2, p3 + p4, p3 - p4
    torch.add(even, far_even, alpha=4, out=out[2])
    torch.add(odd, far_odd, alpha=2, out=out[1])
    torch.add(even.add_(p0), far_even, out=out[0])
    torch.add(odd.add_(p5), far_odd, alpha=8, out=out[3])


def use_winograd(model: Tokenizer) -> Tokenizer:
    """A copy of the model with Winograd for its wide 3x3 convolutions; it shares the rest, weights too."""
    return model.with_modules(**{name: exchange_wide(child) for name, child in model.named_children()}).eval()


def exchange_wide(module: nn.Module) -> nn.Module:
    """A copy of a module with Winograd for its wide 3x3 convolutions."""

    def exchange(module: nn.Module) -> nn.Module | None:
        kind = StillWinogradConv if isinstance(module, StillConv) else WinogradConv
        return kind(module) if is_wide(module) else None

    return exchange_modules(module, exchange)


def is_wide(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether a module is a 3x3 convolution wide enough to gain from Winograd."""
    if not isinstance(module, nn.Conv2d) or (module.kernel_size, module.stride) != ((3, 3), (1, 1)):
        return False
    return module.in_channels * module.out_channels >= WIDE * (module.in_channels + module.out_channels)
