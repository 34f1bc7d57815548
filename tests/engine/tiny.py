"""Models and frames small enough that a test of the ingest core takes a moment; needs what a machine with a GPU has."""

from dataclasses import replace

import numpy as np
import torch

from streamtok.config import PRESETS, TokenizerConfig
from streamtok.model import Tokenizer
from streamtok.types import Frame, TokenGroup

SIZE = 32, 48
MS = 1_000_000

VIDEO = replace(
    PRESETS["nano"],
    name="tiny",
    stem_channels=8,
    encoder_channels=(8, 16),
    decoder_channels=(8, 16),
    encoder_blocks=(1, 1),
    decoder_blocks=(1, 1),
    z_channels=8,
    context=4,
)
ATTENTION = replace(VIDEO, name="tiny-attention", mid=True, mid_attention=True, slim=False)
CONTINUOUS = replace(VIDEO, name="tiny-continuous", quantizer="ae", latent_channels=6)
IMAGE = replace(
    VIDEO, name="tiny-image", video=False, temporal_compression=1, slim=False, num_groups=8, attention_levels=()
)


def build(config: TokenizerConfig, seed: int = 0) -> Tokenizer:
    """A deterministic tokenizer with seeded random weights."""
    torch.manual_seed(seed)
    return Tokenizer(config, deterministic=True)


def image(number: int, size: tuple[int, int] = SIZE, stream: str = "a") -> np.ndarray:
    """Frame `number` of a stream: noise that moves, uint8 RGB."""
    seed = sum(map(ord, stream))
    texture = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return np.roll(texture, number, axis=1)


def frame(number: int, stream: str = "a", size: tuple[int, int] = SIZE, time_ms: float | None = None) -> Frame:
    """Frame `number`, taken at 100 Hz unless `time_ms` says when."""
    capture_ns = round((10 * number if time_ms is None else time_ms) * MS) + 1
    return Frame(stream, number, capture_ns, image(number, size, stream))


def expected_tokens(tokenizer: Tokenizer, groups: list[TokenGroup], stream: str = "a") -> list[np.ndarray]:
    """What `tok.stream` makes of the frames that the groups name."""
    reference, grids = None, []
    for group in groups:
        frames = [image(number, stream=stream) for number in group.frame_ids]
        frames += frames[-1:] * group.repeated
        clip = torch.from_numpy(np.stack(frames).transpose(3, 0, 1, 2)[None].copy())
        if group.keyframe:
            reference = tokenizer.stream(slots=1, height=SIZE[0], width=SIZE[1])
        out = reference.step(clip)
        grids.append(out.indices[0, 0].numpy() if tokenizer.config.discrete else out.latent[0, :, 0].half().numpy())
    return grids
