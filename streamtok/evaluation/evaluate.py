"""Encodes and decodes clips with a tokenizer, and measures the reconstructions.

Once clips are read it needs only torch and numpy, on a CPU or GPU, so a training machine can call it.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from streamtok.coding.coder import TokenCoder
from streamtok.config import TokenizerConfig
from streamtok.evaluation.codes import CodeCounts, Predictability
from streamtok.evaluation.dataset import Clip, ClipSet
from streamtok.evaluation.layouts import as_unit, pictures_to_unit, pictures_to_video, split_groups, video_to_unit
from streamtok.evaluation.metrics import frame_mse, mean_over_frames, ssim
from streamtok.measures import psnr_from_mse
from streamtok.model.decoding import GridDecoder
from streamtok.model.tokenizer import Tokenizer


@dataclass
class ClipResult:
    """The figures of one clip; `mse` has one entry per frame, on the 0..1 scale, from which all PSNRs derive."""

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
        """PSNR of each frame, in dB."""
        return list(map(psnr_from_mse, self.mse))

    def psnr_by_group(self, group: int) -> list[float]:
        """PSNR of the keyframe and of each group of `group` frames after it, in dB."""
        groups = np.array(self.mse[1:]).reshape(-1, group)
        return list(map(psnr_from_mse, (self.mse[0], *groups.mean(1))))

    def psnr_by_place(self, group: int) -> list[float]:
        """PSNR of the keyframe and of each place 1..G in a group, in dB; of the keyframe only if there is no group."""
        groups = np.array(self.mse[1:]).reshape(-1, group)
        return list(map(psnr_from_mse, (self.mse[0], *(groups.mean(0) if len(groups) else ()))))


@dataclass
class Evaluation:
    """The result of `evaluate_clips`. Means over clips give each clip the same weight.

    `psnr` (dB), `ssim` and three lists of PSNR are such means. `psnr_by_frame` and `psnr_by_group` are by index, over
    the clips that are long enough; `psnr_by_place` is of the keyframe, then of places 1..G in a group.
    """

    model: str
    group: int
    clips: list[ClipResult]
    codes: dict | None  # None for continuous models
    skipped: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, int] = field(default_factory=dict)  # frames left out, by clip

    def __post_init__(self) -> None:
        self.psnr, self.ssim = fmean(clip.psnr for clip in self.clips), fmean(clip.ssim for clip in self.clips)
        self.psnr_by_frame = _mean_by_index([clip.psnr_by_frame for clip in self.clips])
        self.psnr_by_group = _mean_by_index([clip.psnr_by_group(self.group) for clip in self.clips])
        self.psnr_by_place = _mean_by_index([clip.psnr_by_place(self.group) for clip in self.clips])

    def extra_means(self) -> dict[str, float]:
        """The mean over clips of each further metric that all clips have."""
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
            "psnr_by_group": self.psnr_by_group,
            "psnr_by_place": self.psnr_by_place,
            "codes": self.codes,
            "clips": [asdict(clip) for clip in self.clips],
            "skipped": self.skipped,
            "damaged": self.damaged,
        }


def _mean_by_index(rows: list[list[float]]) -> list[float]:
    return [fmean(row[i] for row in rows if len(row) > i) for i in range(max(map(len, rows)))]


def evaluate_clips(
    tok: Tokenizer,
    clips: Iterable[Clip],
    *,
    steps: bool = False,
    on_clip: Callable[[Clip, Tensor, ClipResult], None] | None = None,
    coder: TokenCoder | None = None,
    hold: float = 0.0,
) -> Evaluation:
    """Judge a tokenizer on clips whose sizes are on its grid and whose lengths are 1 + kG.

    steps: encode and decode group by group, in constant memory, instead of whole clips. on_clip receives each clip, its
    reconstruction (T, 3, H, W) float in 0..1, and its figures, to which it may add. coder: the tokenizer's token coder,
    to count coded bits. hold: the margin in levels, as for `Tokenizer.encode`. ValueError if no clip could be judged.
    """
    config = tok.config
    codes = None if config.codebook_size is None else CodeCounts(config.codebook_size, config.levels)
    fsq = config.quantizer == "fsq"
    predictability = Predictability(config.levels, config.refinement, coder) if fsq else None
    results = []
    for clip in clips:
        rebuilt, indices = reconstruct(tok, clip, steps=steps, hold=hold)
        if codes is not None and indices is not None:
            codes.add(indices)
        results.append(_judge(tok, clip, rebuilt))
        if predictability is not None and indices is not None:
            results[-1].extra |= predictability.add(indices, config.video)
        if on_clip is not None:
            on_clip(clip, rebuilt, results[-1])
    skipped, damaged = (clips.skipped, clips.damaged) if isinstance(clips, ClipSet) else ({}, {})
    if not results:
        raise ValueError(f"no clip could be judged; skipped: {skipped or 'none'}")
    summary = codes.summary() if codes else None
    if summary is not None and predictability is not None:
        summary |= predictability.summary()
    return Evaluation(config.name, config.temporal_compression, results, summary, dict(skipped), dict(damaged))


@torch.inference_mode()
def reconstruct(tok: Tokenizer, clip: Clip, *, steps: bool = False, hold: float = 0.0) -> tuple[Tensor, Tensor | None]:
    """Encode and decode a clip -> (T, 3, H, W) float32 in 0..1 on the model's device, and its tokens."""
    video = pictures_to_video(clip.frames).to(tok.device)
    if not tok.config.video:
        shown = [_code_whole(tok, frame, hold) for frame in video[0].transpose(0, 1).split(8)]
        tokens = [indices for _, indices in shown if indices is not None]
        return as_unit(torch.cat([frames for frames, _ in shown])), torch.cat(tokens) if tokens else None
    if not steps:
        rebuilt, indices = _code_whole(tok, video, hold)
        return video_to_unit(rebuilt[0]), indices
    _, grids, groups = zip(*code_groups(tok, split_groups(video, tok.group), hold), strict=True)
    return video_to_unit(torch.cat(groups, dim=1)), torch.cat(grids, -3) if tok.config.discrete else None


def _code_whole(tok: Tokenizer, pixels: Tensor, hold: float) -> tuple[Tensor, Tensor | None]:
    """pixels (B, 3, T, H, W) or (B, 3, H, W) -> the same in -1..1, and the tokens."""
    out = tok.encode(pixels.contiguous(), hold=hold)
    return tok.decode(out.tokens), out.indices


def code_groups(tok: Tokenizer, groups: Iterable[Tensor], hold: float = 0.0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Encode and decode uint8 groups (1, 3, T, H, W), keyframe first, in one running stream.

    Yields each group with its tokens (latents of continuous models) and its reconstruction, float (3, T, H, W) in
    [-1, 1].
    """
    encoder, decoder = None, GridDecoder(tok)
    for group in groups:
        first = encoder is None
        if encoder is None:
            encoder = tok.stream(1, *group.shape[-2:])
            if hold:
                encoder.hold(hold)
        out = encoder.step(group.contiguous(), keyframe=[first])
        yield group, out.tokens, decoder.frames(out.tokens[0], first)


def _judge(tok: Tokenizer, clip: Clip, rebuilt: Tensor) -> ClipResult:
    """The figures of a clip and its reconstruction, (T, 3, H, W) in 0..1."""
    original = pictures_to_unit(clip.frames).to(rebuilt.device)
    mse = frame_mse(original, rebuilt)
    height, width = clip.frames.shape[1:3]
    return ClipResult(
        name=clip.name,
        frames=len(clip.frames),
        size=(height, width),
        fps=clip.fps,
        psnr=psnr_from_mse(mse.mean().item()),
        ssim=mean_over_frames(ssim, original, rebuilt),
        mse=mse.tolist(),
        bits_per_second=bits_per_second(tok.config, height, width, clip.fps),
    )


def bits_per_second(config: TokenizerConfig, height: int, width: int, fps: float | None) -> float | None:
    """Bit rate of a running stream without entropy coding: cells of the grid times bits per token, once per G frames.

    None without a frame rate, and for continuous models.
    """
    if config.bits_per_token is None or fps is None:
        return None
    places = (height // config.spatial_compression) * (width // config.spatial_compression)
    return places * config.bits_per_token * fps / config.temporal_compression
