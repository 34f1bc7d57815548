"""Measures quality over long streams: a reset against none, still pictures, decoders with other arithmetic."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from streamtok.evaluation.dataset import Clip
from streamtok.evaluation.evaluate import code_groups, reconstruct
from streamtok.evaluation.layouts import pictures_to_unit, pictures_to_video, video_to_unit
from streamtok.evaluation.metrics import psnr
from streamtok.model.decoding import GridDecoder
from streamtok.model.tokenizer import Tokenizer

SEAM_FRAME, SEAM_END = 24, 32


@dataclass
class Seam:
    """PSNR in dB of the frames after `frame`: coded in the running stream, and after a reset with it as keyframe.

    `gain` is how much better the running stream is, negative if late frames are worse.
    """

    frame: int
    in_stream: float
    after_reset: float
    gain: float = field(init=False)

    def __post_init__(self) -> None:
        self.gain = self.in_stream - self.after_reset


def measure_seam(tok: Tokenizer, clip: Clip, rebuilt: Tensor) -> Seam:
    """Compare frames SEAM_FRAME + 1 to SEAM_END in the running stream with the same frames after a reset before them.

    rebuilt: the reconstruction of the whole clip, (T, 3, H, W) in 0..1. Frames count from 0. ValueError if the clip is
    too short, or if the group size does not divide both numbers.
    """
    frame, end, group = SEAM_FRAME, SEAM_END, tok.config.temporal_compression
    if frame % group or end % group or len(clip.frames) <= end:
        raise ValueError(
            f"{clip.name}: a seam at frame {frame} needs {end + 1} frames and a group that divides it and {end}, got "
            f"{len(clip.frames)} frames in groups of {group}"
        )
    running = rebuilt[frame + 1 : end + 1]
    fresh = reconstruct(tok, Clip(clip.name, clip.frames[frame : end + 1]))[0][1:]
    original = pictures_to_unit(clip.frames[frame + 1 : end + 1]).to(running.device)
    return Seam(frame, psnr(original, running), psnr(original, fresh))


def average_seams(seams: Sequence[Seam]) -> Seam:
    """The mean over clips, with equal weights."""
    return Seam(seams[0].frame, fmean(s.in_stream for s in seams), fmean(s.after_reset for s in seams))


@dataclass
class StillCurve:
    """PSNR in dB of a still picture by group, the keyframe first; mean over pictures.

    `rise_to_fourth` is from the first group to the fourth, `worst_fall_after` the largest drop below the best so far
    from the fourth on.
    """

    psnr: list[float]
    rise_to_fourth: float = field(init=False)
    worst_fall_after: float = field(init=False)

    def __post_init__(self) -> None:
        late = np.array(self.psnr[min(3, len(self.psnr) - 1) :])
        self.rise_to_fourth = float(late[0]) - self.psnr[0]
        self.worst_fall_after = float((np.maximum.accumulate(late) - late).max())


def measure_still(tok: Tokenizer, pictures: Sequence[np.ndarray], groups: int = 16) -> StillCurve:
    """Encode each picture, uint8 RGB (H, W, 3), sides on the grid, repeated for `groups` groups after its keyframe."""
    curves = []
    for picture in pictures:
        group = np.repeat(picture[None], tok.config.temporal_compression, 0)
        curves.append([psnr(original, shown) for original, shown, _ in _code(tok, [picture[None], *[group] * groups])])
    return StillCurve(np.array(curves).mean(0).tolist())


@dataclass
class Drift:
    """A long stream with one keyframe, decoded by the encoder's own arithmetic and by a receiver's; PSNR in dB.

    `loss` is what the receiver loses at the end, as the mean over the last tenth of the samples.
    """

    receiver: str
    groups: list[int]
    encoder_psnr: list[float]
    receiver_psnr: list[float]
    loss: float = field(init=False)

    def __post_init__(self) -> None:
        last = max(1, len(self.groups) // 10)
        self.loss = fmean(self.encoder_psnr[-last:]) - fmean(self.receiver_psnr[-last:])


def measure_drift(
    tok: Tokenizer, clip: Clip, groups: int = 1000, dtype: torch.dtype = torch.bfloat16, every: int = 10
) -> Drift:
    """Play a clip to and fro for `groups` groups, and decode its tokens twice: in the model's precision and in `dtype`.

    Every `every`th group, and the last few, are measured against the original. A plain model shows a constant rounding
    error; for a predictive one the error may grow.
    """
    at, ours, theirs = [], [], []
    frames = play_to_and_fro(clip.frames, tok.config.temporal_compression, groups)
    receiver = GridDecoder(tok, dtype=dtype)
    for number, (original, shown, tokens) in enumerate(_code(tok, frames)):
        received = video_to_unit(receiver.frames(tokens[0], number == 0)).cpu()
        if number % every == 0 or number > groups - 5:
            at.append(number)
            ours.append(psnr(original, shown))
            theirs.append(psnr(original, received))
    return Drift(str(dtype).removeprefix("torch."), at, ours, theirs)


def play_to_and_fro(frames: np.ndarray, group: int, groups: int) -> Iterator[np.ndarray]:
    """The first frame, then `groups` groups of the clip (T, H, W, 3), played forwards and backwards endlessly."""
    period = max(1, 2 * (len(frames) - 1))
    yield frames[:1]
    for start in range(1, 1 + groups * group, group):
        place = np.arange(start, start + group) % period
        yield frames[np.where(place < len(frames), place, period - place)]


def _code(tok: Tokenizer, groups: Iterable[np.ndarray]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield each group's original, reconstruction, (T, 3, H, W) in 0..1 on the CPU, and tokens; the keyframe first."""
    for video, tokens, shown in code_groups(tok, map(pictures_to_video, groups)):
        yield video_to_unit(video[0]), video_to_unit(shown).cpu(), tokens
