"""The Haar transform between pixels and patches, and its inverse.

One level takes sums and differences of neighbours along each axis, with a factor 1/2: the lowest band is the plain
mean (Cosmos Tokenizer, section 3.1). The published code divides each level's orthonormal coefficients by 2*sqrt(2) in
3D and by 2 in 2D. Patch size 4 is two levels, and the second transforms every band of the first. So the whole
transform is one small matrix per patch.
"""

import math

import torch
from torch import Tensor

from streamtok.model.functional import keep_constants


@keep_constants
def haar_matrix(patch: int, axes: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The transform of one patch, (bands, positions).

    `axes` gives the order of the axes inside a band index, slowest first; positions are always t, h, w (or h, w). A
    leading "=" puts the bands that do not vary in time first, otherwise in the same order.
    """
    if axes.startswith("="):
        return haar_matrix(patch, axes[1:], dtype, device)[band_order(patch, axes).to(device)]
    # Each bit of a band's number says whether the band is high-pass on one axis at one level; each bit of a position
    # says whether it is the second of its pair there. The coarsest level is the slowest part of a band's number, and
    # pairs positions patch/2 apart. There are no loops over bands and positions: `torch.compile` would unroll them.
    levels, size = int(math.log2(patch)), patch ** len(axes)
    slowest_first = sorted(axes, key="thw".index)
    bits = range(levels * len(axes))
    places = [slowest_first.index(axis) * levels + level for level in range(levels) for axis in axes]
    number = torch.arange(size)
    high = torch.stack([number >> bits[-1 - bit] & 1 for bit in bits])
    second = torch.stack([number >> bits[-1 - place] & 1 for place in places])
    odd = (high[:, :, None] & second[:, None]).sum(0) % 2
    return ((1 - 2 * odd).double() / size).to(device=device, dtype=dtype)


def band_order(patch: int, axes: str) -> Tensor:
    """The index of each band of `axes` ("=thw") in the order without "=": (patch**3,) int64."""
    matrix = haar_matrix(patch, axes.removeprefix("="), torch.float64, torch.device("cpu"))
    varies = (matrix.view(-1, patch, patch**2).diff(dim=1) != 0).flatten(1).any(1)
    return torch.argsort(varies.int(), stable=True)


def haar3d(video: Tensor, patch: int, axes: str = "thw") -> Tensor:
    """video (B, 3, T, H, W) -> bands (B * T / patch, 3 * patch**3, H / patch, W / patch), channels last.

    T, H and W are multiples of `patch`. Band order: time, height, width from slow to fast, low before high, then
    colour; the last level is slower than the first. With axes "=thw" the bands that do not vary in time come first.
    """
    batch, colours, frames, height, width = video.shape
    t, h, w = frames // patch, height // patch, width // patch
    cells = video.reshape(batch, colours, t, patch, h, patch, w, patch).permute(0, 2, 4, 6, 1, 3, 5, 7)
    matrix = haar_matrix(patch, axes, video.dtype, video.device)
    bands = cells.reshape(-1, patch**3) @ matrix.T
    bands = bands.view(batch * t, h, w, colours, patch**3).transpose(-1, -2).reshape(batch * t, h, w, -1)
    return bands.permute(0, 3, 1, 2)


def inverse_haar3d(bands: Tensor, patch: int, batch: int, axes: str = "thw") -> Tensor:
    """bands (B * T / patch, 3 * patch**3, h, w) -> video (B, 3, T, h * patch, w * patch); undoes `haar3d`."""
    frames, channels, h, w = bands.shape
    colours, t = channels // patch**3, frames // batch
    # One flat product: a batched one would copy the matrix for every position.
    cells = bands.permute(0, 2, 3, 1).reshape(-1, patch**3, colours).transpose(1, 2).reshape(-1, patch**3)
    matrix = haar_matrix(patch, axes, bands.dtype, bands.device) * patch**3
    cells = (cells @ matrix).view(batch, t, h, w, colours, patch, patch, patch)
    return cells.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(batch, colours, t * patch, h * patch, w * patch)


def haar2d(images: Tensor, patch: int, axes: str = "wh") -> Tensor:
    """images (N, 3, H, W) -> bands (N, 3 * patch**2, H / patch, W / patch), channels last.

    As `haar3d` for single images, but inside a band index width is slower than height, as in the published image
    models. With axes "hw" it is the other way round, as in the still bands of `haar3d`.
    """
    count, colours, height, width = images.shape
    h, w = height // patch, width // patch
    cells = images.reshape(count, colours, h, patch, w, patch).permute(0, 2, 4, 1, 3, 5)
    bands = cells.reshape(-1, patch**2) @ haar_matrix(patch, axes, images.dtype, images.device).T
    bands = bands.view(count, h, w, colours, patch**2).transpose(-1, -2).reshape(count, h, w, -1)
    return bands.permute(0, 3, 1, 2)


def inverse_haar2d(bands: Tensor, patch: int) -> Tensor:
    """bands (N, 3 * patch**2, h, w) -> images (N, 3, h * patch, w * patch); undoes `haar2d`."""
    count, channels, h, w = bands.shape
    colours = channels // patch**2
    cells = bands.permute(0, 2, 3, 1).reshape(-1, patch**2, colours).transpose(1, 2).reshape(-1, patch**2)
    cells = cells @ (haar_matrix(patch, "wh", bands.dtype, bands.device) * patch**2)
    cells = cells.view(count, h, w, colours, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return cells.reshape(count, colours, h * patch, w * patch)
