"""Optical-flow consistency: the reconstruction must move as its source does, without flicker."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MATCH = 0.1  # largest warping error of the source, on -1..1, at a pixel that counts: elsewhere something is hidden


def pairs(video: Tensor) -> tuple[Tensor, Tensor]:
    """Each frame and its successor, (B*(T-1), 3, H, W) twice."""
    return video[:, :, :-1].transpose(1, 2).flatten(0, 1), video[:, :, 1:].transpose(1, 2).flatten(0, 1)


def dis_flow(first: Tensor, second: Tensor) -> Tensor:
    """Where each pixel of first (N, 3, H, W) in -1..1 lies in second: (N, 2, H, W), x before y, in pixels."""
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    grey = [x.float().mean(1).clamp(-1, 1).add(1).mul(127.5).byte().cpu().numpy() for x in (first, second)]
    flows = [method.calc(a, b, np.zeros((*a.shape, 2), np.float32)) for a, b in zip(*grey, strict=True)]
    return torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2).to(first.device)


def warp(images: Tensor, flow: Tensor) -> Tensor:
    """images (N, 3, H, W) sampled at each pixel plus flow (N, 2, H, W) in pixels, bilinear; the border repeats."""
    height, width = images.shape[-2:]
    y = torch.arange(height, device=flow.device, dtype=flow.dtype).view(-1, 1)
    x = torch.arange(width, device=flow.device, dtype=flow.dtype)
    grid = torch.stack([(2 * (x + flow[:, 0]) + 1) / width - 1, (2 * (y + flow[:, 1]) + 1) / height - 1], dim=-1)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def warping_consistency(reconstruction: Tensor, source: Tensor) -> Tensor:
    """How much the error of the reconstruction changes along the source's motion: 0 where it moves with the picture.

    Videos (B, 3, T, H, W) in -1..1 -> scalar, mean absolute; 0 for single frames. The source's own warping error is
    subtracted, so that a perfect reconstruction scores 0; pixels that the source's flow does not explain do not count.
    """
    if source.shape[2] < 2 or min(source.shape[-2:]) < 16:  # DIS works on patches and pyramids
        return reconstruction.sum() * 0
    first, second = pairs(source)
    flow = dis_flow(first, second)
    seen = ((warp(second, flow) - first).abs().amax(1, keepdim=True) < MATCH).float()
    before, after = pairs(reconstruction.float() - source)
    change = (warp(after, flow) - before).abs() * seen
    return change.sum() / (3 * seen.sum()).clamp(min=1)


def network_consistency(reconstruction: Tensor, source: Tensor, network: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Mean absolute difference of the flows that a network sees in the reconstruction and in the source.

    The optical-flow loss of the Cosmos paper. `network` maps two (N, 3, H, W) in -1..1 to a flow (N, 2, H, W).
    """
    if source.shape[2] < 2:
        return reconstruction.sum() * 0
    with torch.no_grad():
        wanted = network(*pairs(source))
    return (network(*pairs(reconstruction.float())) - wanted).abs().mean()


def flow_loss(network: str | Path | None, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """The consistency loss: with a TorchScript flow network when a file is given, else with OpenCV's DIS flow."""
    if network is None:
        return warping_consistency
    module = torch.jit.load(str(network), map_location=device).eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return partial(network_consistency, network=module)
