"""Which precision: from measured speed and from token agreement with float32, both reported."""

import math

import torch
from torch import Tensor


def moving_scene(size: tuple[int, int], frames: int, seed: int = 0) -> Tensor:
    """A camera's view in motion, smooth with texture and edges: uint8 (1, 3, frames, H, W), the same for a seed."""
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    world = torch.zeros(1, 3, height + frames, width + 3 * frames)
    for octave in range(6):  # noise of every scale, as natural images have, halving in strength
        cells = (max(2, world.shape[2] >> (6 - octave)), max(2, world.shape[3] >> (6 - octave)))
        coarse = torch.randn(1, 3, *cells, generator=generator)
        world += torch.nn.functional.interpolate(coarse, world.shape[2:], mode="bilinear") / 2 ** (octave * 0.8)
    edges = torch.sign(world.mean(1, keepdim=True)) * 0.5
    bright = torch.tanh(0.6 * world + edges)
    views = [
        bright[:, :, t // 2 : t // 2 + height, 2 * t : 2 * t + width] * (0.9 + 0.1 * math.cos(t / 9))
        for t in range(frames)
    ]
    return ((torch.stack(views, 2) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
