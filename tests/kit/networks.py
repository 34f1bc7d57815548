"""Small networks in the layout of published ones: Inception and I3D."""

from pathlib import Path

import torch


class MeanColour(torch.nn.Module):
    """Stands for an Inception archive that takes uint8 pixels alone: the mean and spread of each colour."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.float()
        return torch.cat([x.mean((2, 3)), x.std((2, 3))], 1)


class VideoMoments(torch.nn.Module):
    """Has the arguments of the published I3D archive."""

    def forward(self, x: torch.Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False):
        if rescale or resize or not return_features:
            raise ValueError("pixels come ready, and features are wanted")
        return torch.cat([x.mean((2, 3, 4)), x.amax((2, 3, 4)), torch.tensor([x.shape], dtype=x.dtype)], 1)


def archive(network: torch.nn.Module, path: Path) -> Path:
    torch.jit.script(network).save(str(path))
    return path
