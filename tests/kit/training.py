"""A tiny run that fits any test: a small tokenizer, two synthetic clips, float32 on the CPU."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from streamtok.training.config import TrainConfig

TINY = {
    "stem_channels": 8,
    "encoder_channels": [8, 24],
    "decoder_channels": [12, 24],
    "encoder_blocks": [1, 1],
    "decoder_blocks": [1, 1],
}
CLIPS = ["synthetic:48x64@30?seed=1&frames=20", "synthetic:48x64@30?seed=2&frames=30"]


def table(out: Path, **changes: Any) -> dict[str, Any]:
    """The run as a YAML file would say it."""
    return {
        "model": "nano",
        "model_overrides": TINY,
        "out": str(out),
        "steps": 12,
        "device": "cpu",
        "dtype": "float32",
        "deterministic": True,
        "data": {"paths": CLIPS, "scales": [48], "image_fraction": 0.2, "pan": 0.3, "still": 0.1, "threads": 1},
        "phases": [
            {"until": 0.4, "frames": 5, "crop": 32, "batch": 2},
            {"until": 1.0, "frames": 5, "crop": 32, "batch": 2, "carry": 0.7},
        ],
        "optimizer": {"warmup": 4, "ema": 0.9},
        "log_every": 1,
        "save_every": 3,
        "sample_every": 1000,
        **changes,
    }


def config(out: Path, **changes: Any) -> TrainConfig:
    """The same, built."""
    return TrainConfig.model_validate(table(out, **changes))


def assert_same(a: Any, b: Any) -> None:
    """Checkpoints, or parts of them, are equal to the bit."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    else:
        assert a == b


def write_avi(path: Path, frames: Iterable[np.ndarray]) -> None:
    """A video of JPEG pictures, uint8 RGB, 30 a second."""
    frames = list(frames)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 30, frames[0].shape[1::-1])
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
