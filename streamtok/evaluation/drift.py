"""How a stream holds up over time: seams at a reset, held stills, and receivers whose arithmetic differs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from streamtok.evaluation.dataset import Clip
from streamtok.evaluation.evaluate import reconstruct
from streamtok.evaluation.metrics import as_unit, frame_mse, psnr_from_mse
from streamtok.model.stream import DecodeStream, EncodeStream
from streamtok.model.tokenizer import Tokenizer

SEAM_FRAME = 24


@dataclass(frozen=True)
class Seam:
    """PSNR in dB of the frames after `frame`: coded in the running stream, and after a reset with it as keyframe."""

    frame: int
    in_stream: float
    after_reset: float

    @property
    def gain(self) -> float:
        """How much better the running stream is, in dB; negative where late frames lose."""
        return self.in_stream - self.after_reset


def seam(tok: Tokenizer, clip: Clip, rebuilt: Tensor, frame: int = SEAM_FRAME, frames: int = 8) -> Seam:
    """Compare `frames` frames after number `frame` in the stream with the same after a reset there.

    rebuilt: the whole clip through the tokenizer, (T, 3, H, W) in 0..1. Numbers count from 0; both must be multiples of
    the group. A clip that is too short raises ValueError.
    """
    end = frame + frames
    group = tok.config.temporal_compression
    if frame % group or frames % group or len(clip.frames) <= end:
        raise ValueError(
            f"{clip.name}: a seam at frame {frame} over {frames} frames needs {end + 1} frames and multiples of the "
            f"group of {group}, got {len(clip.frames)} frames"
        )
    running = rebuilt[frame + 1 : end + 1]
    fresh = reconstruct(tok, Clip(clip.name, clip.frames[frame : end + 1]))[0][1:]
    original = _unit(clip.frames[frame + 1 : end + 1]).to(running.device)
    return Seam(frame, *(psnr_from_mse(frame_mse(original, x).mean().item()) for x in (running, fresh)))


def mean_seam(seams: Sequence[Seam]) -> Seam:
    """The mean over clips, each with the same weight."""
    return Seam(seams[0].frame, fmean(s.in_stream for s in seams), fmean(s.after_reset for s in seams))


@dataclass(frozen=True)
class StillCurve:
    """PSNR in dB of a held picture, group by group, the keyframe first; mean over pictures."""

    psnr: list[float]

    @property
    def rise_to_fourth(self) -> float:
        """From the first group (the keyframe) to the fourth, in dB."""
        return self.psnr[min(3, len(self.psnr) - 1)] - self.psnr[0]

    @property
    def worst_fall_after(self) -> float:
        """The deepest drop below the best so far, from the fourth group on, in dB."""
        late = np.array(self.psnr[min(3, len(self.psnr) - 1) :])
        return float((np.maximum.accumulate(late) - late).max())


def held_still(tok: Tokenizer, pictures: Sequence[np.ndarray], groups: int = 16) -> StillCurve:
    """Hold each picture, uint8 RGB (H, W, 3) on the grid, for `groups` groups after its keyframe."""
    curves = []
    for picture in pictures:
        group = np.repeat(picture[None], tok.config.temporal_compression, 0)
        steps = _encode_steps(tok, iter([picture[None], *[group] * groups]))
        curves.append([psnr_from_mse(frame_mse(original, shown).mean().item()) for _, original, shown in steps])
    return StillCurve(np.array(curves).mean(0).tolist())


@dataclass(frozen=True)
class Drift:
    """A long stream without keyframes, by the encoder's own arithmetic and by a receiver's; PSNR in dB by group."""

    receiver: str
    groups: list[int]
    encoder_psnr: list[float]
    receiver_psnr: list[float]

    @property
    def loss(self) -> float:
        """What the receiver loses at the end, in dB; the mean of the last tenth of the samples."""
        last = max(1, len(self.groups) // 10)
        return fmean(self.encoder_psnr[-last:]) - fmean(self.receiver_psnr[-last:])


def receiver_drift(
    tok: Tokenizer, clip: Clip, groups: int = 1000, dtype: torch.dtype = torch.bfloat16, every: int = 10
) -> Drift:
    """Play a clip to and fro for `groups` groups and decode its tokens twice: as the model is, and in `dtype`.

    Every `every`th group is measured against the original. A plain model shows its rounding alone, the same at each
    group; a predictive one shows whether the difference grows.
    """
    at, ours, theirs = [], [], []
    frames = _to_and_fro(clip.frames, tok.config.temporal_compression, groups)
    for number, (original, shown, received) in enumerate(_two_receivers(tok, dtype, frames)):
        if number % every == 0 or number > groups - 5:
            at.append(number)
            ours.append(psnr_from_mse(frame_mse(original, shown).mean().item()))
            theirs.append(psnr_from_mse(frame_mse(original, received).mean().item()))
    return Drift(str(dtype).removeprefix("torch."), at, ours, theirs)


def _to_and_fro(frames: np.ndarray, group: int, groups: int) -> Iterator[np.ndarray]:
    """The first frame, then `groups` groups of the clip played forwards and backwards without end."""
    period = max(1, 2 * (len(frames) - 1))
    yield frames[:1]
    for start in range(1, 1 + groups * group, group):
        place = np.arange(start, start + group) % period
        yield frames[np.where(place < len(frames), place, period - place)]


@torch.inference_mode()
def _two_receivers(
    tok: Tokenizer, dtype: torch.dtype, groups: Iterator[np.ndarray]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    second: DecodeStream | None = None
    for tokens, original, shown in _encode_steps(tok, groups):
        first = second is None
        second = second or _open_decoder(tok, tokens, dtype)
        received = second.step(tokens, keyframe=[first])
        received = received[:, :, -1:] if first else received
        yield original, shown, as_unit(received[0].transpose(0, 1)).cpu()


@torch.inference_mode()
def _encode_steps(tok: Tokenizer, groups: Iterator[np.ndarray]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Each group's tokens, original and reconstruction (frames, 3, H, W) in 0..1, on the CPU; the keyframe first."""
    encoder: EncodeStream | None = None
    decoder: DecodeStream | None = None
    for frames in groups:
        first = encoder is None
        encoder = encoder or tok.stream(slots=1, height=frames.shape[1], width=frames.shape[2])
        pixels = torch.from_numpy(np.ascontiguousarray(frames.transpose(3, 0, 1, 2)))[None]
        out = encoder.step(pixels, keyframe=[first])
        tokens = out.latent if out.indices is None else out.indices
        decoder = decoder or _open_decoder(tok, tokens)
        shown = decoder.step(tokens, keyframe=[first])
        shown = shown[:, :, -1:] if first else shown
        yield tokens, _unit(frames), as_unit(shown[0].transpose(0, 1)).cpu()


def _open_decoder(tok: Tokenizer, tokens: Tensor, dtype: torch.dtype | None = None) -> DecodeStream:
    height, width = tokens.shape[-2:]
    return tok.decode_stream(slots=1, grid_height=height, grid_width=width, dtype=dtype)


def _unit(frames: np.ndarray) -> Tensor:
    """uint8 (T, H, W, 3) -> float (T, 3, H, W) in 0..1."""
    return as_unit(torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2))
