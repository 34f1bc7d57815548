"""Judges the weights during training on held-out clips: figures, and a picture of reconstructions beside sources."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from streamtok.evaluation.layouts import video_to_unit
from streamtok.evaluation.metrics import psnr
from streamtok.io.images.stills import show_channels, write_png
from streamtok.measures import entropy_bits
from streamtok.model.decoding import to_uint8
from streamtok.model.frames import match_channels
from streamtok.training.cache import Cache
from streamtok.training.config import TrainConfig
from streamtok.training.step import TrainingStep


@torch.no_grad()
def judge_weights(step: TrainingStep, cache: Cache, config: TrainConfig, number: int) -> dict[str, float]:
    """Judge the averaged weights on the first frames of every held-out clip, and save sample_NUMBER.png.

    Returns `psnr`, `psnr_first` (keyframe) and `psnr_last` (last group) in dB, means over clips, and `entropy` in bits.
    """
    results, tokens, rows = [], [], []
    last = slice(-max(1, (config.sample_frames - 1) // 4), None)
    step.average.swap()
    step.model.eval()
    try:
        for name in cache.names:
            frames = cache.clip(name, config.sample_lines)[: config.sample_frames]
            video = _cut_to_grid(frames[: (len(frames) - 1) // step.model.group * step.model.group + 1])
            video = match_channels(video, step.model.config.in_channels)
            with step.autocast():
                output = step.model(video, state=None)
            shown = output.reconstruction.float()
            source, rebuilt = (video_to_unit(frames[0]) for frames in (video, shown))
            results.append([psnr(source[part], rebuilt[part]) for part in (slice(None), slice(1), last)])
            tokens += [output.indices.flatten()] if output.indices is not None else []
            rows.append(_join_frames(video[0], shown[0]))
    finally:
        step.model.train()
        step.average.swap()
    width = max(row.shape[1] for row in rows)
    sheet = np.concatenate([np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0))) for row in rows])
    write_png(Path(config.out) / f"sample_{number:07d}.png", sheet)
    mean = np.mean(results, axis=0)
    summary = {"psnr": float(mean[0]), "psnr_first": float(mean[1]), "psnr_last": float(mean[2])}
    if tokens:
        summary["entropy"] = entropy_bits(torch.cat(tokens).unique(return_counts=True)[1].cpu().numpy())
    return summary


def _cut_to_grid(frames: Tensor) -> Tensor:
    """(T, C, H, W) uint8 -> (1, C, T, H, W) in -1..1, with sides cut to multiples of 16."""
    height, width = (side // 16 * 16 for side in frames.shape[-2:])
    return frames[:, :, :height, :width].float().div(127.5).sub(1).movedim(0, 1)[None]


def _join_frames(source: Tensor, shown: Tensor) -> np.ndarray:
    """Two videos (C, T, H, W) in -1..1 -> uint8 (H, 4 W, 3): first and last frame, each with its reconstruction."""
    frames = [to_uint8(video[:, [i]])[0] for i in (0, -1) for video in (source, shown)]
    return np.concatenate([show_channels(frame) for frame in frames], axis=1)
