"""Clips that the tests draw themselves, and tokenizers small enough to run on them at once."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from streamtok.config import TokenizerConfig
from streamtok.model.tokenizer import Tokenizer

TINY = {
    "slim": True,
    "mid": False,
    "mid_attention": False,
    "stem_channels": 8,
    "encoder_channels": (8, 8),
    "decoder_channels": (8, 8),
    "encoder_blocks": (1, 1),
    "decoder_blocks": (1, 1),
    "z_channels": 8,
}


def scene(frames: int = 33, height: int = 64, width: int = 96, seed: int = 0) -> np.ndarray:
    """A smooth picture that slides to the right by two pixels per frame: uint8 (T, H, W, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, : width + 2 * frames]
    phase = rng.uniform(0, 6, (3, 4))
    wave = [sum(np.sin(p + x / (5 + 3 * i) + y / (7 + 2 * i)) for i, p in enumerate(row)) for row in phase]
    picture = (127 + 30 * np.stack(wave, -1)).clip(0, 255).astype(np.uint8)
    offsets = [2 * (frames - t) for t in range(frames)]
    return np.stack([picture[:, offset : offset + width] for offset in offsets])


def write_video(path: Path, frames: np.ndarray, fps: int = 24) -> Path:
    """Store frames as H.264 with hardly any loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "4", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def tiny() -> Callable[..., Tokenizer]:
    """A factory of seeded tokenizers with random weights, 4x8x8 unless told otherwise."""

    def make(**changes: object) -> Tokenizer:
        torch.manual_seed(0)
        return Tokenizer(TokenizerConfig(**({"name": "tiny"} | TINY | changes)))

    return make


@pytest.fixture
def two_clips(tmp_path: Path) -> Path:
    """A folder with two short videos."""
    folder = tmp_path / "clips"
    write_video(folder / "left.mp4", scene(seed=1))
    write_video(folder / "sub" / "right.mp4", scene(seed=2, frames=20))
    return folder
