"""Clips that the tests draw themselves, and tokenizers small enough to run on them at once."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from streamtok.model import Tokenizer, build
from tests.kit.models import SLIM
from tests.kit.pictures import scene, write_video


@pytest.fixture
def tiny() -> Callable[..., Tokenizer]:
    """A factory of seeded tokenizers with random weights, 4x8x8 unless told otherwise."""

    def make(**changes: object) -> Tokenizer:
        torch.manual_seed(0)
        sizes = {"name": "tiny", "encoder_channels": (8, 8), "decoder_channels": (8, 8)}
        return build(replace(SLIM, **sizes | changes))

    return make


@pytest.fixture
def two_clips(tmp_path: Path) -> Path:
    """A folder with two short videos."""
    folder = tmp_path / "clips"
    write_video(folder / "left.mp4", scene(seed=1))
    write_video(folder / "sub" / "right.mp4", scene(seed=2, frames=20))
    return folder
