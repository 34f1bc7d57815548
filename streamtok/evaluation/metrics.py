"""Picture metrics, each with one fixed definition: frames are float tensors (N, 3, H, W) in 0..1 (see `layouts`).

PSNR of a clip is -10 log10 of the mean squared error over all its frames, channels and pixels; a report has the mean of
it over clips. SSIM uses a Gaussian window of 11 pixels, sigma 1.5, without padding ("valid"); libraries that pad give
other figures.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from streamtok.measures import psnr_from_mse

_MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang, Simoncelli and Bovik 2003
SSIM_SIDE, _SIGMA = 11, 1.5  # of the window, the smallest picture
MS_SSIM_SIDE = (SSIM_SIDE - 1) * 2 ** (len(_MS_WEIGHTS) - 1) + 1  # smallest side that holds five scales
_C1, _C2 = 0.01**2, 0.03**2


def frame_mse(reference: Tensor, other: Tensor) -> Tensor:
    """Mean squared error of each frame: two (N, 3, H, W) in 0..1 -> (N,) float64."""
    _check_pair(reference, other)
    return (reference.double() - other.double()).square().mean(dim=(1, 2, 3))


def psnr(reference: Tensor, other: Tensor) -> float:
    """PSNR in dB of a clip, from the mean squared error over all of it: two (N, 3, H, W) in 0..1."""
    return psnr_from_mse(frame_mse(reference, other).mean().item())


def ssim(reference: Tensor, other: Tensor) -> Tensor:
    """Structural similarity of each frame: two (N, 3, H, W) in 0..1, sides of 11 or more -> (N,)."""
    _check_pair(reference, other)
    structure, luminance = _ssim_parts(reference, other)
    return (structure * luminance).mean(dim=(1, 2, 3))


def mean_over_frames(metric: Callable[[Tensor, Tensor], Tensor], reference: Tensor, other: Tensor) -> float:
    """The mean of `ssim` or `ms_ssim` over a clip, two (N, 3, H, W) in 0..1, a few frames at a time to bound memory."""
    pairs = zip(reference.split(8), other.split(8), strict=True)
    return torch.cat([metric(a, b) for a, b in pairs]).mean().item()


def ms_ssim(reference: Tensor, other: Tensor) -> Tensor:
    """SSIM over five scales of each frame: two (N, 3, H, W) in 0..1 -> (N,).

    It uses the published five weights and 2x2 averages; odd sides are padded as in the published code. ValueError for
    sides under 161 pixels, which do not hold five scales.
    """
    _check_pair(reference, other)
    if min(reference.shape[-2:]) < MS_SSIM_SIDE:
        raise ValueError(f"MS-SSIM needs sides of at least {MS_SSIM_SIDE} pixels, got {tuple(reference.shape[-2:])}")
    result = torch.ones(reference.shape[:2], device=reference.device)
    for scale, weight in enumerate(_MS_WEIGHTS):
        structure, luminance = _ssim_parts(reference, other)
        last = scale == len(_MS_WEIGHTS) - 1
        value = (structure * luminance if last else structure).mean(dim=(2, 3))
        result = result * value.clamp(min=0) ** weight
        if not last:
            pad = [side % 2 for side in reference.shape[-2:]]
            reference, other = (F.avg_pool2d(x, 2, padding=pad) for x in (reference, other))
    return result.mean(dim=1)


def _ssim_parts(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The contrast-structure and luminance maps, each (N, 3, H - 10, W - 10); ValueError for sides under 11."""
    if min(a.shape[-2:]) < SSIM_SIDE:
        raise ValueError(f"SSIM needs sides of at least {SSIM_SIDE} pixels, got {tuple(a.shape[-2:])}")
    a, b = a.float(), b.float()
    mean_a, mean_b = _blur(a), _blur(b)
    var_a = _blur(a * a) - mean_a**2
    var_b = _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    structure = (2 * covariance + _C2) / (var_a + var_b + _C2)
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    return structure, luminance


def _blur(x: Tensor) -> Tensor:
    """Filter with the Gaussian window, without padding: (N, C, H, W) -> (N, C, H - 10, W - 10)."""
    at = torch.arange(SSIM_SIDE, device=x.device, dtype=torch.float32) - SSIM_SIDE // 2
    window = torch.exp(-(at**2) / (2 * _SIGMA**2))
    window = (window / window.sum()).expand(x.shape[1], 1, 1, -1)
    down = F.conv2d(x, window.transpose(2, 3), groups=x.shape[1])
    return F.conv2d(down, window, groups=x.shape[1])


def _check_pair(reference: Tensor, other: Tensor) -> None:
    """ValueError unless both are (N, 3, H, W) of one size."""
    if reference.shape != other.shape or reference.ndim != 4:
        raise ValueError(
            f"expected two (N, 3, H, W) tensors of equal shape, got {tuple(reference.shape)} and {tuple(other.shape)}"
        )
