"""Runs a whole evaluation: all metrics that the given files allow, baselines, quality over time, and pictures."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
from torch import Tensor

from streamtok.coding.coder import TokenCoder
from streamtok.evaluation.baselines import CODECS, average_grid, codec_at_bits, make_unrounded
from streamtok.evaluation.dataset import Clip
from streamtok.evaluation.drift import (
    SEAM_END,
    Drift,
    Seam,
    StillCurve,
    average_seams,
    measure_drift,
    measure_seam,
    measure_still,
)
from streamtok.evaluation.evaluate import ClipResult, Evaluation, evaluate_clips
from streamtok.evaluation.frechet import FeaturePairs
from streamtok.evaluation.layouts import pictures_to_unit
from streamtok.evaluation.metrics import MS_SSIM_SIDE, mean_over_frames, ms_ssim, psnr, ssim
from streamtok.evaluation.motion import flicker_summary, grid_visibility
from streamtok.evaluation.pictures import SheetRow, SideBySide
from streamtok.model.tokenizer import Tokenizer

STILL_PICTURES, SHEET_CLIPS = 4, 6  # pictures measured as stills; clips on the contact sheet


@dataclass(frozen=True)
class SuiteOptions:
    """What a run measures beyond PSNR, SSIM and tokens."""

    steps: bool = False  # encode group by group, not whole clips
    motion: bool = True
    baselines: bool = False
    drift_groups: int = 0  # 0: no receiver in another precision
    i3d: Path | None = None  # the network for rFVD; None: no rFVD
    inception: Path | None = None  # the network for rFID; None: no rFID
    side_by_side: Path | None = None  # video of originals and reconstructions to write
    coder: TokenCoder | None = None  # the tokenizer's, to count coded bits
    hold: float = 0.0  # margin in levels for the clips' tokens; measurements over time are without it


class Baseline(NamedTuple):
    """A baseline on one clip, or its means over all: also the share of the token stream's bits if it is a codec."""

    name: str
    psnr: float
    ssim: float
    bits_share: float | None
    psnr_by_clip: dict[str, float]


def average_baselines(scores: list[Baseline]) -> Baseline:
    """The mean of one baseline's scores, each of one clip."""
    psnr, ssim = fmean(score.psnr for score in scores), fmean(score.ssim for score in scores)
    shares = [score.bits_share for score in scores if score.bits_share is not None]
    by_clip = {name: value for score in scores for name, value in score.psnr_by_clip.items()}
    return Baseline(scores[0].name, psnr, ssim, fmean(shares) if shares else None, by_clip)


@dataclass
class SuiteResult:
    """The results of one run."""

    evaluation: Evaluation
    baselines: list[Baseline] = field(default_factory=list)
    seam: Seam | None = None
    still: StillCurve | None = None
    drift: Drift | None = None
    rfvd: float | None = None
    rfid: float | None = None
    samples: list[SheetRow] = field(default_factory=list, repr=False)

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return self.evaluation.to_dict() | {
            "rfvd": self.rfvd,
            "rfid": self.rfid,
            "baselines": [baseline._asdict() for baseline in self.baselines],
            "seam": self.seam and asdict(self.seam),
            "held_still": self.still and asdict(self.still),
            "drift": self.drift and asdict(self.drift),
        }


def run_suite(
    tok: Tokenizer, clips: Iterable[Clip], options: SuiteOptions, progress: Callable[[str], None] | None = None
) -> SuiteResult:
    """Evaluate `tok` on `clips` as `options` say; `progress` gets each clip's name when it is done.

    Raises ValueError if no clip can be read, or if a weight file does not fit.
    """
    if options.side_by_side is not None:
        options.side_by_side.parent.mkdir(parents=True, exist_ok=True)
    with SideBySide(options.side_by_side) if options.side_by_side else contextlib.nullcontext() as video:
        suite = _Suite(tok, options, progress or (lambda name: None), video)
        evaluation = evaluate_clips(
            tok,
            clips,
            steps=options.steps,
            on_clip=suite.add_clip,
            coder=options.coder,
            hold=options.hold,
        )
    return suite.finish(evaluation)


class _Suite:
    """Accumulates results clip by clip, so that only one clip is in memory."""

    def __init__(
        self, tok: Tokenizer, options: SuiteOptions, progress: Callable[[str], None], video: SideBySide | None
    ):
        self.tok, self.config, self.options, self.progress, self.video = tok, tok.config, options, progress, video
        self.scores: dict[str, list[Baseline]] = {}  # by baseline
        self.seams: list[Seam] = []
        self.pictures: list[np.ndarray] = []
        self.first_video: Clip | None = None
        self.samples: list[SheetRow] = []
        load = functools.partial(FeaturePairs, device=tok.device)
        self.video_pairs = load(options.i3d, video=True) if options.i3d else None
        self.image_pairs = load(options.inception, video=False) if options.inception else None
        self.unrounded = make_unrounded(tok) if options.baselines and self.config.quantizer == "fsq" else None

    def add_clip(self, clip: Clip, rebuilt: Tensor, result: ClipResult) -> None:
        """Measure one clip and its reconstruction, float (T, 3, H, W) in 0..1."""
        original = pictures_to_unit(clip.frames).to(rebuilt.device)
        if min(original.shape[-2:]) >= MS_SSIM_SIDE:
            result.extra["ms_ssim"] = mean_over_frames(ms_ssim, original, rebuilt)
        result.extra["grid"] = grid_visibility(original, rebuilt, self.config.spatial_compression)
        if self.options.motion:
            result.extra |= flicker_summary(original, rebuilt, self.config.temporal_compression)
        for pairs in (self.video_pairs, self.image_pairs):
            if pairs is not None:
                pairs.add(original, rebuilt)
        if self.options.baselines:
            self._score_baselines(clip, original, result.extra.get("coded_bits"))
        if self.config.video and len(clip.frames) > 1:
            self._measure_over_time(clip, rebuilt, result)
        pictures = (rebuilt * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        if len(self.samples) < SHEET_CLIPS:
            caption = f"{clip.name}, frame {len(clip.frames) - 1}: original, reconstruction, worst patch of both"
            self.samples.append((caption, clip.frames[-1], pictures[-1]))
        if self.video is not None:
            self.video.add(clip.frames, pictures)
        self.progress(clip.name)

    def _measure_over_time(self, clip: Clip, rebuilt: Tensor, result: ClipResult) -> None:
        """Measure the seam, and keep pictures and a clip for `finish`; rebuilt (T, 3, H, W) in 0..1."""
        if len(clip.frames) > SEAM_END:
            self.seams.append(measure_seam(self.tok, clip, rebuilt))
            result.extra["late_gain"] = self.seams[-1].gain
        if len(self.pictures) < STILL_PICTURES:
            self.pictures.append(clip.frames[0])
        if self.first_video is None:
            self.first_video = clip

    def _score_baselines(self, clip: Clip, original: Tensor, coded_bits: float | None) -> None:
        """Score all baselines on a clip; original (T, 3, H, W) in 0..1, coded_bits per token if there is a coder."""
        group, step = self.config.temporal_compression, self.config.spatial_compression
        self._score("token-grid average + bicubic", clip, original, average_grid(clip, group, step), None)
        if self.unrounded is not None:
            self._score("the same net, not rounded", clip, original, self.unrounded(clip), None)
        if self.config.bits_per_token is None:
            return
        height, width = clip.frames.shape[1:3]
        grids = 1 + (len(clip.frames) - 1) // group
        budget = grids * (height // step) * (width // step) * self.config.bits_per_token
        budgets = {"": budget}
        if coded_bits is not None:
            budgets[", at the bits of coded tokens"] = budget * coded_bits / self.config.bits_per_token
        for (name, bits), codec in itertools.product(budgets.items(), CODECS):
            coded = codec_at_bits(clip.frames, codec, bits)
            shown = pictures_to_unit(coded.frames)
            self._score(f"{codec} veryfast zerolatency{name}", clip, original, shown, coded.bits / budget)

    def _score(self, name: str, clip: Clip, original: Tensor, shown: Tensor, share: float | None) -> None:
        """Add the score of one baseline: two (T, 3, H, W) in 0..1, `share` of the token stream's bits."""
        shown = shown.to(original.device)
        quality = psnr(original, shown)
        score = Baseline(name, quality, mean_over_frames(ssim, original, shown), share, {clip.name: quality})
        self.scores.setdefault(name, []).append(score)

    def finish(self, evaluation: Evaluation) -> SuiteResult:
        """Average what was accumulated, and measure what needs all clips to have been seen."""
        options = self.options
        result = SuiteResult(evaluation, samples=self.samples)
        result.baselines = [average_baselines(scores) for scores in self.scores.values()]
        result.rfvd = self.video_pairs.distance() if self.video_pairs else None
        result.rfid = self.image_pairs.distance() if self.image_pairs else None
        result.seam = average_seams(self.seams) if self.seams else None
        if self.pictures:
            self.progress("held stills")
            result.still = measure_still(self.tok, self.pictures)
        if self.first_video and options.drift_groups:
            self.progress(f"{options.drift_groups} groups without a keyframe")
            result.drift = measure_drift(self.tok, self.first_video, options.drift_groups)
        return result
