"""Converts between the three layouts of frames in evaluation.

Pictures are uint8 RGB (T, H, W, 3), from cameras and files. A video is (B, 3, T, H, W), uint8 or float in -1..1, for
the network. Unit frames are float32 (T, 3, H, W) in 0..1, for metrics.
"""

import numpy as np
import torch
from torch import Tensor


def as_unit(frames: Tensor) -> Tensor:
    """Frames of any shape, uint8 or float in -1..1 -> float32 in 0..1, clipped."""
    if frames.dtype == torch.uint8:
        return frames.float() / 255
    return ((frames.float() + 1) / 2).clamp(0, 1)


def pictures_to_unit(pictures: np.ndarray) -> Tensor:
    """uint8 (T, H, W, 3) -> float32 (T, 3, H, W) in 0..1."""
    return as_unit(torch.from_numpy(pictures).permute(0, 3, 1, 2))


def pictures_to_video(pictures: np.ndarray) -> Tensor:
    """uint8 (T, H, W, 3) -> uint8 (1, 3, T, H, W), a view of the same memory."""
    return torch.from_numpy(pictures).permute(3, 0, 1, 2)[None]


def video_to_unit(video: Tensor) -> Tensor:
    """One row of a video, (3, T, H, W), uint8 or float in -1..1 -> float32 (T, 3, H, W) in 0..1."""
    return as_unit(video.transpose(0, 1))


def split_groups(video: Tensor, group: int) -> list[Tensor]:
    """Split a video (B, 3, 1 + k * group, H, W) into its keyframe (B, 3, 1, H, W) and k groups (B, 3, group, H, W)."""
    return [video[:, :, max(0, end - group) : end] for end in range(1, video.shape[2] + group, group)]
