"""The Haar transform between pixels and patches, and its inverse.

One level takes sums and differences of neighbours along each axis, with a factor 1/2: the lowest band is the plain
mean (Cosmos Tokenizer, section 3.1). The published code divides each level's orthonormal coefficients by 2*sqrt(2) in
3D and by 2 in 2D. Patch size 4 is two levels, and the second transforms every band of the first. So the whole
transform is one small matrix per patch.
"""

import math

import torch
from torch import Tensor

from streamtok.model.functional import keep_constants, permute_rows


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


def haar(video: Tensor, patch: int, axes: str = "thw") -> Tensor:
    """video (B, C, T, H, W) -> bands (B * T', C * positions of a patch, H / patch, W / patch), channels last.

    H and W are multiples of `patch`. So is T (T' = T / patch), unless `axes` lack "t" and each frame stands alone. Band
    order: `axes` from slow to fast, low before high, then colour; the last level is slower than the first. Published
    image models have "wh". With "=thw" the bands that do not vary in time come first, in the order of "hw".
    """
    batch, colours, frames, height, width = video.shape
    deep = patch if "t" in axes else 1
    t, h, w = frames // deep, height // patch, width // patch
    cells = permute_rows(video.reshape(batch, colours, t, deep, h, patch, w, patch), 0, 2, 4, 6, 1, 3, 5, 7)
    matrix = haar_matrix(patch, axes, video.dtype, video.device)
    bands = cells.view(-1, deep * patch**2) @ matrix.T
    bands = bands.view(batch * t, h, w, colours, -1).transpose(-1, -2).reshape(batch * t, h, w, -1)
    return bands.permute(0, 3, 1, 2)


def inverse_haar(bands: Tensor, patch: int, batch: int, axes: str = "thw") -> Tensor:
    """bands (B * T', C * positions of a patch, h, w) -> video (B, C, T, h * patch, w * patch); undoes `haar`."""
    frames, channels, h, w = bands.shape
    deep = patch if "t" in axes else 1
    size, t = deep * patch**2, frames // batch
    # One flat product: a batched one would copy the matrix for every position.
    cells = bands.permute(0, 2, 3, 1).reshape(-1, size, channels // size).transpose(1, 2).reshape(-1, size)
    matrix = haar_matrix(patch, axes, bands.dtype, bands.device) * size
    cells = (cells @ matrix).view(batch, t, h, w, -1, deep, patch, patch)
    return permute_rows(cells, 0, 4, 1, 5, 2, 6, 3, 7).view(batch, -1, t * deep, h * patch, w * patch)
