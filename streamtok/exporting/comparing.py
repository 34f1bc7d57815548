"""Compares an exported ONNX file with the PyTorch step that it was made from."""

from pathlib import Path

import numpy as np
import torch

from streamtok.exporting.formats import OnnxStep
from streamtok.exporting.step import ExportedStep
from streamtok.io.source import open_source


def compare_with_onnx(step: ExportedStep, path: Path, groups: int) -> dict[str, float]:
    """Run `groups` groups of a synthetic clip through both steps -> how many values differ, and by how much."""
    exported, state, differing, values, most = OnnxStep(path), step.example[2:], 0, 0, 0.0
    for number, x in enumerate(make_inputs(step, groups)):
        with torch.no_grad():
            own, *state = step(torch.from_numpy(x), torch.tensor([number == 0]), *state)
        gap = np.abs(own.numpy().astype(np.float64) - exported.step(x, number == 0))
        differing, values, most = differing + int((gap > 0).sum()), values + gap.size, max(most, float(gap.max()))
    return {"compared": values, "differing": differing, "largest_difference": most}


def make_inputs(step: ExportedStep, groups: int) -> list[np.ndarray]:
    """Inputs for a step: groups of a synthetic drive, uint8 (1, G, H, W, 3), or their tokens to decode."""
    group, (height, width) = step.tokenizer.group, step.size
    with open_source(f"synthetic:{height}x{width}@10?seed=5&frames={group * groups}", "clip") as source:
        frames = np.stack([frame.image for frame in source])
    clips = list(frames.reshape(groups, 1, group, height, width, 3))
    if step.direction == "encode":
        return clips
    stream, grids = step.tokenizer.stream(1, height, width), []
    for number, clip in enumerate(clips):
        out = stream.step(torch.from_numpy(clip.transpose(0, 4, 1, 2, 3)[:, :, : 1 if number == 0 else group].copy()))
        grids.append(out.tokens.squeeze(-3).numpy())
    return grids
