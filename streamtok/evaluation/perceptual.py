"""Distances between pictures in the features of a classification network, whose weights the user gives.

Two layouts are read from a state dict: VGG-19 (convolutions in one `features` sequence) and MobileNetV2.
Sizes are taken from the weights, so a narrower network of either layout works too.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamtok.checkpoint.folder import read_tensors
from streamtok.settings.errors import SettingsError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, on 0..1
MOBILENET_TAPS = (1, 3, 6, 13, 17)  # the last block at each resolution
MOBILENET_STRIDED = (2, 4, 7, 14)  # blocks that halve the resolution


class VGG(nn.Module):
    """Convolutions 3x3 with ReLU; consecutive numbers in the file differ by 2, and by 3 across a 2x2 max-pooling."""

    def __init__(self, weights: dict[str, Tensor]):
        super().__init__()
        numbers = sorted(int(name.split(".")[0]) for name in weights if name.endswith(".weight"))
        self.pooled = [b - a > 2 for a, b in pairwise(numbers)] + [True]
        self.layers = nn.ModuleList()
        for number in numbers:
            weight = weights[f"{number}.weight"]
            layer = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            layer.load_state_dict({"weight": weight, "bias": weights[f"{number}.bias"]})
            self.layers.append(layer)

    def forward(self, x: Tensor) -> Iterator[Tensor]:
        """x (N, 3, H, W) -> the features before each pooling, (N, C, H / 2^i, W / 2^i)."""
        for layer, pooled in zip(self.layers, self.pooled, strict=True):
            x = F.relu(layer(x))
            if pooled:
                yield x
                if min(x.shape[-2:]) < 2:
                    return
                x = F.max_pool2d(x, 2)


class MobileNetV2(nn.Module):
    """Inverted residual blocks with ReLU6, batch norms folded into the convolutions."""

    def __init__(self, weights: dict[str, Tensor]):
        super().__init__()
        self.blocks = nn.ModuleList([nn.ModuleList([_folded(weights, "0.0", "0.1", 2)])])
        count = 1 + max(int(name.split(".")[0]) for name in weights if ".conv." in name)
        for i in range(1, count):
            inner = sorted({int(name.split(".")[2]) for name in weights if name.startswith(f"{i}.conv.")})
            stride = 2 if i in MOBILENET_STRIDED else 1
            pairs = [(a, a + 1) for a in inner if a + 1 in inner and weights[f"{i}.conv.{a}.weight"].ndim == 4]
            names = [(f"{i}.conv.{a}", f"{i}.conv.{b}") for a, b in pairs]
            self.blocks.append(nn.ModuleList([_folded(weights, *pair, stride) for pair in names]))

    def forward(self, x: Tensor) -> Iterator[Tensor]:
        """x (N, 3, H, W) -> the features after each tapped block."""
        for i, block in enumerate(self.blocks):
            y, layers = x, list(block.children())
            for j, layer in enumerate(layers):
                linear = i > 0 and j == len(layers) - 1
                y = layer(y) if linear else F.relu6(layer(y))
            x = x + y if y.shape == x.shape and i > 0 else y
            if i in MOBILENET_TAPS:
                yield x


def _folded(weights: dict[str, Tensor], conv: str, norm: str, stride: int) -> nn.Conv2d:
    """A convolution and its batch norm (eps 1e-5) as one; only filters wider than a pixel are strided."""
    weight = weights[f"{conv}.weight"]
    scale = weights[f"{norm}.weight"] / torch.sqrt(weights[f"{norm}.running_var"] + 1e-5)
    groups = weight.shape[0] if weight.shape[1] == 1 else 1
    size = weight.shape[-1]
    layer = nn.Conv2d(
        weight.shape[1] * groups, weight.shape[0], size, stride if size > 1 else 1, padding=size // 2, groups=groups
    )
    bias = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
    layer.load_state_dict({"weight": weight * scale.view(-1, 1, 1, 1), "bias": bias})
    return layer


class Features(nn.Module):
    """A frozen network and the distances in its features. Videos are (B, 3, T, H, W) in -1..1."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    @classmethod
    def load(cls, path: str | Path | None) -> "Features":
        """From a state dict on disk (.pt, .pth or .safetensors), read without unpickling code.

        SettingsError when no file is given, ValueError when it has neither layout.
        """
        if path is None:
            raise SettingsError("the perceptual and gram losses need `backbone`, a VGG-19 or MobileNetV2 weights file")
        if Path(path).suffix == ".safetensors":
            weights = read_tensors(Path(path))
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        inner = {name.removeprefix("features."): w for name, w in weights.items() if not name.startswith("classifier")}
        if "0.0.weight" in inner and any(".conv." in name for name in inner):
            return cls(MobileNetV2(inner))
        if "0.weight" in inner and inner["0.weight"].ndim == 4:
            return cls(VGG(inner))
        raise ValueError(f"{path} has neither VGG's nor MobileNetV2's layout; its first keys: {list(weights)[:4]}")

    def taps(self, video: Tensor) -> list[Tensor]:
        """The features of every frame, finest first, each (B*T, C, h, w)."""
        frames = video.float().transpose(1, 2).flatten(0, 1)
        return list(self.network(((frames + 1) / 2 - self.mean) / self.std))

    def _pairs(self, reconstruction: Tensor, source: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Videos (B, 3, T, H, W) in -1..1 -> both at each tap, (B*T, C, h, w)."""
        with torch.no_grad():
            wanted = self.taps(source)
        return zip(self.taps(reconstruction), wanted, strict=True)

    def distance(self, reconstruction: Tensor, source: Tensor) -> Tensor:
        """Squared difference of the features of each place, scaled to length 1 over channels; summed over taps.

        Videos (B, 3, T, H, W) in -1..1 -> scalar. After LPIPS (Zhang et al. 2018, section 3), with every channel
        weighing the same.
        """
        pairs = self._pairs(reconstruction, source)
        return torch.stack([(_normalize(a) - _normalize(b)).square().sum(1).mean() for a, b in pairs]).sum()

    def gram(self, reconstruction: Tensor, source: Tensor) -> Tensor:
        """Mean absolute difference of the Gram matrices of the features (Gatys et al. 2016), averaged over taps.

        Videos (B, 3, T, H, W) in -1..1 -> scalar.
        """
        pairs = self._pairs(reconstruction, source)
        return torch.stack([(_gram(a) - _gram(b)).abs().mean() for a, b in pairs]).mean()


def _normalize(features: Tensor) -> Tensor:
    """(N, C, h, w) with length 1 over channels."""
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + 1e-6)


def _gram(features: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, C, C): which channels fire together, wherever in the frame."""
    flat = features.flatten(2)
    return flat @ flat.mT / flat.shape[2]
