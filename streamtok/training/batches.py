"""Draws the crops of each batch, as a function of seed and step only, and cuts them out of the cache by index."""

from dataclasses import dataclass
from itertools import accumulate, chain, islice
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from streamtok.training.cache import Cache, Stored
from streamtok.training.config import DataConfig, PhaseConfig

MOST_CLIPS = 0.6  # share of the clips that must be long enough for a stride, or for another segment
DRIFT = 8  # drift is in 1/8 pixel per frame; crops lie at whole pixels

Number = TypeVar("Number")


class Place(NamedTuple, Generic[Number]):
    """Where one clip of a batch is cut out of the cache."""

    offset: Number  # row of the cache at which the stored clip begins
    height: Number  # of the stored frames
    width: Number
    start: Number  # first frame
    stride: Number  # frames from one to the next; negative if reversed, 0 for a held one
    top: Number  # of the crop in the first frame
    left: Number
    down: Number  # drift per frame, in 1/DRIFT pixel
    right: Number
    flip: Number  # 1 if mirrored


@dataclass(frozen=True)
class Plan:
    """A batch before it is cut: `places` (B, 10) int64, a `Place` each, and `colours` (B, C + 1) float32, the gains of
    channels and an offset."""

    places: np.ndarray
    colours: np.ndarray


def make_generator(seed: int, step: int, purpose: int = 0) -> np.random.Generator:
    """A random generator that depends on nothing but its arguments."""
    return np.random.Generator(np.random.Philox(key=[seed & (2**64 - 1), (purpose << 48) | step]))


class Sampler:
    """Draws the plan of a batch by seed and step: clips, positions, strides, directions and colours."""

    def __init__(self, cache: Cache, config: DataConfig, seed: int):
        self.cache, self.config, self.seed = cache, config, seed
        self.by_clip = [[s for s in cache.stored if s.clip == clip] for clip in range(len(cache.names))]
        self.lengths = np.array([max(sizes[0].runs) for sizes in self.by_clip])

    def draw(self, step: int, batch: int, frames: int, crop: int) -> Plan:
        """Draw a plan of `batch` clips of `frames` frames of crop x crop pixels; ValueError if no clip is so long."""
        rng = make_generator(self.seed, step)
        enough = [s for s in self.config.strides if (self.lengths > (frames - 1) * s).mean() >= MOST_CLIPS]
        stride = int(rng.choice(enough or [min(self.config.strides)]))
        fitting = np.flatnonzero(self.lengths > (frames - 1) * stride)
        if not len(fitting):
            longest = int(self.lengths.max())
            raise ValueError(
                f"no clip has {frames} frames in a row (the longest: {longest}); give longer videos, or lower the "
                "phase's frames or carry"
            )
        rows = [self._pick_place(rng, fitting, frames, stride, crop) for _ in range(batch)]
        return Plan(np.array(rows, dtype=np.int64), self._pick_colours(rng, batch))

    def _pick_place(
        self, rng: np.random.Generator, fitting: np.ndarray, frames: int, stride: int, crop: int
    ) -> Place[int]:
        """Draw a place in the clips `fitting`; a held frame may come from any, also a single image."""
        config = self.config
        if rng.random() < config.still:
            fitting, stride = np.arange(len(self.by_clip)), 0
        sizes = self.by_clip[int(rng.choice(fitting))]
        weights = np.array([max(1, config.scales.count(stored.short_side)) for stored in sizes], float)
        stored = sizes[int(rng.choice(len(sizes), p=weights / weights.sum()))]
        start = _pick_start(rng, stored.runs, (frames - 1) * stride)
        chance = rng.random(3)
        if chance[0] < config.reverse:
            start, stride = start + (frames - 1) * stride, -stride
        down, right = self._pick_drift(rng, stored, frames, crop) if chance[1] < config.pan else (0, 0)
        top = self._pick_edge(rng, stored.height - crop, down * (frames - 1) // DRIFT)
        left = self._pick_edge(rng, stored.width - crop, right * (frames - 1) // DRIFT)
        flip = int(chance[2] < config.flip)
        return Place(stored.offset, stored.height, stored.width, start, stride, top, left, down, right, flip)

    def _pick_drift(self, rng: np.random.Generator, stored: Stored, frames: int, crop: int) -> tuple[int, int]:
        """Draw a drift down and right that stays inside, in 1/DRIFT pixels per frame; slow is as likely as fast."""
        slowness = 2.0 ** rng.integers(0, 6)
        speeds = []
        for room in (stored.height - crop, stored.width - crop):
            fastest = min(DRIFT * self.config.pan_speed, DRIFT * room // max(1, frames - 1)) / slowness
            speeds.append(round(rng.uniform(-fastest, fastest)))
        return speeds[0], speeds[1]

    @staticmethod
    def _pick_edge(rng: np.random.Generator, room: int, drift: int) -> int:
        """Draw where a crop starts along one axis, so that it stays inside while it drifts."""
        return int(rng.integers(max(0, -drift), room - max(0, drift) + 1))

    def _pick_colours(self, rng: np.random.Generator, batch: int) -> np.ndarray:
        """Draw `Plan.colours`, (B, C + 1) float32."""
        b = self.config.brightness
        gain = 1 + rng.uniform(-b, b, (batch, 1)) + rng.uniform(-b, b, (batch, self.cache.pixels.shape[1])) / 4
        return np.concatenate([gain, rng.uniform(-b, b, (batch, 1))], axis=1).astype(np.float32)

    def cut(self, plan: Plan, first: int, frames: int, crop: int) -> Tensor:
        """Cut frames [first, first + frames) of a plan -> (B, C, frames, crop, crop) float32 in -1..1."""
        device = self.cache.pixels.device
        rows = torch.from_numpy(plan.places).to(device, non_blocking=True)
        place = Place(*(column.view(-1, 1, 1, 1) for column in rows.unbind(1)))
        time = torch.arange(first, first + frames, device=device).view(1, -1, 1, 1)
        edge = torch.arange(crop, device=device)
        down, across = edge.view(1, 1, -1, 1), edge.view(1, 1, 1, -1)
        across = torch.where(place.flip > 0, crop - 1 - across, across)
        y = place.top + place.down * time // DRIFT + down
        x = place.left + place.right * time // DRIFT + across
        z = place.start + place.stride * time
        index = place.offset + (z * place.height + y) * place.width + x
        video = self.cache.pixels[index].float().div_(127.5).sub_(1)  # (B, T, crop, crop, C)
        colours = torch.from_numpy(plan.colours).to(device, non_blocking=True).view(-1, 1, 1, 1, plan.colours.shape[1])
        video = video.mul_(colours[..., :-1]).add_(colours[..., -1:]).clamp_(-1, 1)
        return video.permute(0, 4, 1, 2, 3).contiguous()


def _pick_start(rng: np.random.Generator, runs: tuple[int, ...], span: int) -> int:
    """Draw a start frame that `span` more frames of its run follow."""
    starts = [range(end - run, end - span) for run, end in zip(runs, accumulate(runs), strict=True)]
    number = int(rng.integers(sum(map(len, starts))))
    return next(islice(chain(*starts), number, None))


@dataclass
class Course:
    """The run's position in its current clips, which last several steps if a phase carries state.

    Checkpoints store it as three numbers; the clips follow from the seed and the step at which they started.
    """

    start: int = 0  # step at which the current clips were drawn
    segment: int = 0
    segments: int = 0  # of the current clips; 0: there are none

    def next_batch(self, sampler: Sampler, step: int, phase: PhaseConfig) -> tuple[Tensor, bool]:
        """The batch of this step, float32 (B, C, T, H, W) in -1..1, and whether it continues the last one's clips.

        T is the phase's frames, or one less if clips continue, because these have had their keyframe.
        """
        if not self.segments:
            rng = make_generator(sampler.seed, step, purpose=1)
            if rng.random() < sampler.config.image_fraction:
                images = phase.batch * min(4, phase.frames)  # a single frame costs less
                return sampler.cut(sampler.draw(step, images, 1, phase.crop), 0, 1, phase.crop), False
            self.start, self.segment, self.segments = step, 0, _count_segments(rng, sampler, phase)
        per_segment = phase.frames - 1
        plan = sampler.draw(self.start, phase.batch, 1 + self.segments * per_segment, phase.crop)
        continuing = self.segment > 0
        first = 1 + self.segment * per_segment if continuing else 0
        video = sampler.cut(plan, first, per_segment if continuing else phase.frames, phase.crop)
        self.segment += 1
        if self.segment == self.segments:
            self.segments = 0
        return video, continuing

    def leave(self) -> None:
        """Abandon the current clips, at a change of phase."""
        self.segments = self.segment = 0


def _count_segments(rng: np.random.Generator, sampler: Sampler, phase: PhaseConfig) -> int:
    """Draw how many segments the next clips have: geometric, limited to the length of most clips."""
    if phase.frames == 1:
        return 1
    common = int(np.quantile(sampler.lengths, 1 - MOST_CLIPS, method="lower"))
    limit = min(phase.max_segments, (common - 1) // ((phase.frames - 1) * min(sampler.config.strides)))
    count = 1
    while count < limit and rng.random() < phase.carry:
        count += 1
    return count
