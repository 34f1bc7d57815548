"""Frechet distances between features of originals and reconstructions: rFVD with an I3D file, rFID with Inception's.

The user gives the networks as TorchScript archives. The widely used `i3d_torchscript.pt` and `inception-2015-12-05.pt`
are called as their authors do; any archive that maps pixels to features (N, D) works. Distances compare only for the
same file and number of clips, and need hundreds of clips to settle.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_I3D_SIDE = 224
_I3D_FRAMES = 10  # shorter clips leave the network nothing to pool over


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The Frechet distance of Gaussians fitted to two sets of features (N, D), N of 2 or more, in float64.

    It is |mean difference|^2 + trace(Ca + Cb - 2 (Ca Cb)^1/2), covariances over N - 1. ValueError for other shapes.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"expected features (N, D) with N of 2 or more and equal D, got {a.shape} and {b.shape}")
    a, b = a.astype(np.float64), b.astype(np.float64)
    mean = a.mean(0) - b.mean(0)
    cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ cov_b @ root).clip(min=0)
    return float(max(0.0, mean @ mean + np.trace(cov_a) + np.trace(cov_b) - 2 * np.sqrt(cross).sum()))


class FeaturePairs:
    """Collects the features of originals and reconstructions, clip by clip, for one distance.

    The network is the TorchScript archive `path`; ValueError if the file is not one.
    """

    def __init__(self, path: str | Path, *, video: bool, device: torch.device | str = "cpu"):
        try:
            self.network = torch.jit.load(str(path), map_location=device).eval()
        except RuntimeError as error:
            raise ValueError(f"{path} is not a TorchScript archive that torch.jit.load can open") from error
        self.video = video
        self.original: list[np.ndarray] = []
        self.rebuilt: list[np.ndarray] = []
        self._arguments = {argument.name for argument in self.network.forward.schema.arguments}

    def add(self, original: Tensor, rebuilt: Tensor) -> bool:
        """Add one clip, two (T, 3, H, W) in 0..1; False if it is too short for a video network."""
        if self.video and len(original) < _I3D_FRAMES:
            return False
        for frames, kept in ((original, self.original), (rebuilt, self.rebuilt)):
            kept.append(self._features(frames))
        return True

    def distance(self) -> float | None:
        """The Frechet distance; None with fewer than two samples."""
        if not self.original or sum(map(len, self.original)) < 2:
            return None
        return frechet_distance(np.concatenate(self.original), np.concatenate(self.rebuilt))

    @torch.inference_mode()
    def _features(self, frames: Tensor) -> np.ndarray:
        """frames (T, 3, H, W) in 0..1 -> (N, D) float64."""
        pixels = self._video_pixels(frames) if self.video else (frames * 255).round().to(torch.uint8)
        wanted = {"return_features": True} | ({"rescale": False, "resize": False} if self.video else {})
        options = {name: value for name, value in wanted.items() if name in self._arguments}
        return self.network(pixels, **options).flatten(1).double().cpu().numpy()

    @staticmethod
    def _video_pixels(frames: Tensor) -> Tensor:
        """Short side to 224, centre crop: (T, 3, H, W) in 0..1 -> (1, 3, T, 224, 224) in -1..1, as published."""
        height, width = frames.shape[-2:]
        scale = _I3D_SIDE / min(height, width)
        size = [max(_I3D_SIDE, -int(-side * scale // 1)) for side in (height, width)]
        frames = F.interpolate(frames, size=size, mode="bilinear", align_corners=False)
        top, left = (size[0] - _I3D_SIDE) // 2, (size[1] - _I3D_SIDE) // 2
        crop = frames[..., top : top + _I3D_SIDE, left : left + _I3D_SIDE]
        return (crop * 2 - 1).transpose(0, 1)[None].contiguous()
