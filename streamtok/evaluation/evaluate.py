"""Encode and decode clips with one tokenizer and measure the pictures that come back.

Needs torch and numpy alone once the clips are read, on CPU or GPU, so a training machine can call it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from streamtok.evaluation.codes import CodeCounts
from streamtok.evaluation.dataset import Clip, ClipSet, find_clips
from streamtok.evaluation.metrics import as_unit, frame_mse, psnr_from_mse, ssim


@dataclass
class ClipResult:
    """The figures of one clip; `mse` has one entry per frame on the 0..1 scale, everything in dB derives from it."""

    name: str
    frames: int
    size: tuple[int, int]  # height, width
    fps: float | None
    psnr: float
    ssim: float
    mse: list[float]
    bits_per_second: float | None
    extra: dict[str, float] = field(default_factory=dict)

    @property
    def psnr_by_frame(self) -> list[float]:
        return [psnr_from_mse(value) for value in self.mse]

    def psnr_by_place(self, group: int) -> list[float]:
        """PSNR of the keyframe and of each place 1..G in the groups after it (only the first for single frames)."""
        if len(self.mse) <= group:
            return [psnr_from_mse(self.mse[0])]
        grid = np.array(self.mse[1:]).reshape(-1, group).mean(0)
        return [psnr_from_mse(self.mse[0]), *(psnr_from_mse(value) for value in grid)]


@dataclass
class Evaluation:
    """What `evaluate_clips` found. Means over clips give each clip the same weight."""

    model: str
    group: int
    clips: list[ClipResult]
    codes: dict | None  # None for continuous models
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def psnr(self) -> float:
        return fmean(clip.psnr for clip in self.clips)

    @property
    def ssim(self) -> float:
        return fmean(clip.ssim for clip in self.clips)

    @property
    def psnr_by_frame(self) -> list[float]:
        """Mean over the clips that are long enough, in dB, for each frame index."""
        longest = max(clip.frames for clip in self.clips)
        per_clip = [clip.psnr_by_frame for clip in self.clips]
        return [fmean(values[i] for values in per_clip if len(values) > i) for i in range(longest)]

    @property
    def psnr_by_place(self) -> list[float]:
        """Mean over clips: the keyframe first, then places 1..G of a group."""
        per_clip = [clip.psnr_by_place(self.group) for clip in self.clips]
        widest = max(map(len, per_clip))
        return [fmean(values[i] for values in per_clip if len(values) > i) for i in range(widest)]

    def extra_means(self) -> dict[str, float]:
        """The mean over clips of every further metric that all clips have."""
        names = [name for name in self.clips[0].extra if all(name in clip.extra for clip in self.clips)]
        return {name: fmean(clip.extra[name] for clip in self.clips) for name in names}

    def to_dict(self) -> dict:
        """Plain numbers, strings and lists for JSON."""
        return {
            "model": self.model,
            "psnr": self.psnr,
            "ssim": self.ssim,
            **self.extra_means(),
            "psnr_by_frame": self.psnr_by_frame,
            "psnr_by_place": self.psnr_by_place,
            "codes": self.codes,
            "clips": [asdict(clip) for clip in self.clips],
            "skipped": self.skipped,
        }


Metric = Callable[[Tensor, Tensor], float]  # original and reconstruction, (T, 3, H, W) in 0..1


def evaluate_clips(
    tok: torch.nn.Module,
    clips: Iterable[Clip],
    *,
    steps: bool = False,
    metrics: dict[str, Metric] | None = None,
    on_clip: Callable[[Clip, Tensor], None] | None = None,
) -> Evaluation:
    """Judge a tokenizer on clips whose sizes fit its grid and whose lengths are 1 + kG.

    steps: encode and decode group by group, in constant memory, rather than whole clips. metrics: further figures by
    name. on_clip receives each clip and its reconstruction (T, 3, H, W) float in 0..1, for pictures. Raises ValueError
    when there is no clip at all.
    """
    config = tok.config
    codes = CodeCounts(config.codebook_size, tuple(config.levels or ())) if config.discrete else None
    results = []
    for clip in clips:
        rebuilt, indices = reconstruct(tok, clip, steps=steps)
        if codes is not None:
            codes.add(indices)
        results.append(_judge(tok, clip, rebuilt, metrics or {}))
        if on_clip is not None:
            on_clip(clip, rebuilt)
    skipped = dict(getattr(clips, "skipped", {}))
    if not results:
        raise ValueError(f"no clip could be judged; skipped: {skipped or 'none'}")
    return Evaluation(config.name, config.temporal_compression, results, codes.summary() if codes else None, skipped)


def evaluate_folder(
    tok: torch.nn.Module, places: Sequence[str | Path], *, lines: int | None = 256, frames: int = 33
) -> Evaluation:
    """Judge a tokenizer on the first frames of every clip in folders and files; the short call for training logs."""
    config = tok.config
    clips = ClipSet(find_clips(places), lines, frames, config.spatial_compression, config.temporal_compression)
    return evaluate_clips(tok, clips, steps=lines is None)


@torch.inference_mode()
def reconstruct(tok: torch.nn.Module, clip: Clip, *, steps: bool = False) -> tuple[Tensor, Tensor | None]:
    """A clip through encoder and decoder: (T, 3, H, W) float32 in 0..1 on the model's device, and its tokens."""
    device = next(tok.parameters()).device
    video = torch.from_numpy(clip.frames).permute(3, 0, 1, 2)[None].to(device)  # (1, 3, T, H, W)
    if not tok.config.video:
        pieces = [_through(tok, frame) for frame in video[0].transpose(0, 1).split(8)]
        rebuilt, tokens = zip(*pieces, strict=True)
        return as_unit(torch.cat(rebuilt)), None if tokens[0] is None else torch.cat(tokens)
    rebuilt, tokens = _by_steps(tok, video) if steps else _through(tok, video)
    return as_unit(rebuilt[0].transpose(0, 1)), tokens


def _through(tok: torch.nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
    out = tok.encode(pixels.contiguous())
    return tok.decode(out.latent if out.indices is None else out.indices), out.indices


def _by_steps(tok: torch.nn.Module, video: Tensor) -> tuple[Tensor, Tensor | None]:
    group, compression = tok.config.temporal_compression, tok.config.spatial_compression
    height, width = video.shape[-2:]
    encoder = tok.stream(slots=1, height=height, width=width)
    decoder = tok.decode_stream(slots=1, grid_height=height // compression, grid_width=width // compression)
    pieces, tokens = [], []
    for number, piece in enumerate([video[:, :, :1], *video[:, :, 1:].split(group, dim=2)]):
        out = encoder.step(piece.contiguous(), keyframe=[number == 0])
        shown = decoder.step(out.latent if out.indices is None else out.indices, keyframe=[number == 0])
        pieces.append(shown[:, :, -1:] if number == 0 else shown)
        tokens.append(out.indices)
    return torch.cat(pieces, dim=2), None if tokens[0] is None else torch.cat(tokens, dim=-3)


def _judge(tok: torch.nn.Module, clip: Clip, rebuilt: Tensor, metrics: dict[str, Metric]) -> ClipResult:
    original = as_unit(torch.from_numpy(clip.frames).permute(0, 3, 1, 2).to(rebuilt.device))
    mse = frame_mse(original, rebuilt)
    similarity = torch.cat([ssim(a, b) for a, b in zip(original.split(8), rebuilt.split(8), strict=True)])
    height, width = clip.frames.shape[1:3]
    return ClipResult(
        name=clip.name,
        frames=len(clip.frames),
        size=(height, width),
        fps=clip.fps,
        psnr=psnr_from_mse(mse.mean().item()),
        ssim=similarity.mean().item(),
        mse=mse.tolist(),
        bits_per_second=bits_per_second(tok.config, height, width, clip.fps),
        extra={name: float(metric(original, rebuilt)) for name, metric in metrics.items()},
    )


def bits_per_second(config, height: int, width: int, fps: float | None) -> float | None:
    """Bits of a running stream without entropy coding: tokens of a group times log2 of the codebook, G frames each.

    None without a frame rate, and for continuous models.
    """
    if not config.discrete or fps is None:
        return None
    places = (height // config.spatial_compression) * (width // config.spatial_compression)
    per_place = float(np.log2(config.codebook_size)) * getattr(config, "num_quantizers", 1)
    return places * per_place * fps / config.temporal_compression
