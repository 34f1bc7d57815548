"""Frames for benchmarks: clips from sources or of the synthetic scene, and encoding them group by group."""

import numpy as np
import torch
from torch import Tensor

from streamtok.bench.options import BenchOptions
from streamtok.evaluation.layouts import pictures_to_video, split_groups
from streamtok.model import EncodeStream
from streamtok.weights.golden import reference_clip


def read_clip(source: str | None, size: tuple[int, int], frames: int) -> Tensor:
    """Read the first frames of a source, uint8 (1, 3, frames, H, W); None reads `weights.golden.reference_clip`.

    Raises ValueError if the source has fewer frames.
    """
    if source is None:
        return reference_clip(frames, *size)
    from streamtok.io.source import open_source, resize_frames

    with open_source(source, max_frames=frames) as opened:
        images = [frame.image for frame in resize_frames(opened, size)]
    if len(images) < frames:
        raise ValueError(f"{source} has {len(images)} frames, {frames} are needed")
    return pictures_to_video(np.stack(images)).contiguous()


def paint_groups(options: BenchOptions, groups: int, group: int, cameras: int = 1) -> list[Tensor]:
    """Make groups of the synthetic scene on the device, uint8 (cameras, 3, group, H, W), equal for all cameras."""
    scene = reference_clip(groups * group, *options.size).to(options.device)
    return [part.expand(cameras, -1, -1, -1, -1).contiguous() for part in scene.split(group, 2)]


def encode_by_steps(stream: EncodeStream, clip: Tensor) -> tuple[Tensor, Tensor]:
    """Encode a clip (B, 3, 1 + k * G, H, W), uint8 or float in -1..1, one group per step of a fresh stream of B slots.

    Returns the latents, float (B, C, T', h, w), and the tokens, as in `Encoded`.
    """
    outs = [stream.step(part) for part in split_groups(clip, stream.model.group)]
    return torch.cat([out.latent for out in outs], 2), torch.cat([out.tokens for out in outs], -3)
