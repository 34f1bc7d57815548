"""A tiny run that fits any test: a small tokenizer, two synthetic clips, float32 on the CPU."""

from pathlib import Path
from typing import Any

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
