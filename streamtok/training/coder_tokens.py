"""Makes the training data of a token coder: videos as its tokenizer encodes them, in several views."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import numpy as np
import torch

from streamtok.evaluation.dataset import fit
from streamtok.evaluation.layouts import pictures_to_video, split_groups
from streamtok.model import Tokenizer
from streamtok.training.footage import Footage, survey

MAX_FRAMES = 300  # of each file


@dataclass(frozen=True)
class FootageView:
    """How to encode footage: at `lines` pixels (short side), every `stride`-th frame, in epochs of `epoch` frames.

    With `still`, each epoch repeats its first picture.
    """

    lines: int
    stride: int
    epoch: int
    mirrored: bool = False
    still: bool = False


# Many keyframes; long epochs; faster and larger motion. Each view encodes all footage once.
VIEWS = (FootageView(256, 1, 33), FootageView(256, 1, MAX_FRAMES, mirrored=True), FootageView(320, 2, 41))
# Refining tokens are made for still pictures, and take several times as long to encode.
REFINING_VIEWS = (FootageView(256, 1, 33), FootageView(256, 1, 65, mirrored=True, still=True))
JUDGED = {"clips": FootageView(256, 1, 33), "held_still": FootageView(256, 1, 65, still=True)}


@dataclass(frozen=True)
class Epoch:
    """The token grids (T, h, w) uint16 or uint32 of one epoch of a file, keyframe first."""

    path: str
    grids: np.ndarray


def tokenize_views(
    tok: Tokenizer, paths: Sequence[str], views: Sequence[FootageView], frames: int = MAX_FRAMES
) -> list[Epoch]:
    """Encode up to `frames` of each file in each view -> their epochs. ValueError names a file without a frame."""
    return [epoch for view in views for path in paths for epoch in _tokenize(tok, survey(path, frames, frames), view)]


def _tokenize(tok: Tokenizer, footage: Footage, view: FootageView) -> Iterator[Epoch]:
    for _, run in groupby(footage.read(), itemgetter(0)):
        frames = [fit(frame, view.lines, tok.config.spatial_compression) for _, frame in run][:: view.stride]
        pictures = np.stack(frames)[:, :, :: -1 if view.mirrored else 1]
        for first in range(0, len(pictures), view.epoch):
            shown = pictures[first : first + view.epoch]
            yield Epoch(footage.path, encode_epoch(tok, shown[:1].repeat(len(shown), 0) if view.still else shown))


@torch.inference_mode()
def encode_epoch(tok: Tokenizer, pictures: np.ndarray) -> np.ndarray:
    """Encode pictures uint8 (T, H, W, 3) as one epoch in a stream -> grids (T', h, w) of its whole groups."""
    video = pictures_to_video(np.ascontiguousarray(pictures))
    stream = tok.stream(1, *video.shape[-2:])
    whole = 1 + (len(pictures) - 1) // tok.group * tok.group
    grids = [stream.step(group.contiguous()).indices for group in split_groups(video[:, :, :whole], tok.group)]
    return np.stack([grid[0, 0].numpy() for grid in grids if grid is not None]).astype(tok.config.token_dtype)
