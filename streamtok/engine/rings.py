"""Converts between the ring buffers in which fast layers keep past frames and the snapshots' form, oldest first."""

import torch
from torch import Tensor


def unroll(ring: Tensor, count: Tensor, past: int) -> Tensor:
    """The newest P = `past` frames of each slot, oldest first: ring (B, P + T, ...), count (B,) -> (B, P, ...).

    Frame f of the stream lies at f % (P + T). Frames before the first repeat it; a fresh slot's are zero.
    """
    length = ring.shape[1]
    newest = count[:, None] * (length - past) + torch.arange(-past, 0)
    places = newest.clamp(min=0) % length
    frames = ring[torch.arange(len(ring))[:, None], places]
    started = (count > 0).view(-1, *[1] * (ring.ndim - 1))
    return torch.where(started, frames, torch.zeros_like(frames))


def roll(frames: Tensor, count: Tensor, length: int) -> Tensor:
    """The inverse of `unroll`: frames (B, P, ...) -> ring (B, length, ...), its other entries zero."""
    past = frames.shape[1]
    ring = frames.new_zeros(frames.shape[0], length, *frames.shape[2:])
    newest = count[:, None] * (length - past) + torch.arange(-past, 0)
    for slot, place in (newest >= 0).nonzero().tolist():
        ring[slot, newest[slot, place] % length] = frames[slot, place]
    return ring
