"""The training loop: draws batches, takes steps, logs, validates, saves, and stops by steps or by time."""

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from streamtok.engine.loading import pick_device
from streamtok.io.suffixes import is_image
from streamtok.model import PredictiveTokenizer, Tokenizer
from streamtok.model.frames import match_channels
from streamtok.model.state import State
from streamtok.settings.errors import SettingsError
from streamtok.training.batches import Course, Sampler
from streamtok.training.config import TrainConfig
from streamtok.training.data import Cache, list_media, load_cache, split_holdout
from streamtok.training.footage import WHOLE
from streamtok.training.journal import Journal, find_first_validation, plot_curves
from streamtok.training.optimizer import cosine
from streamtok.training.saving import LAST, load_run, prepare_folder, save_run
from streamtok.training.step import TrainingStep
from streamtok.training.validation import judge_weights

log = logging.getLogger("streamtok.training")


@dataclass(frozen=True)
class Summary:
    """The result of a run: steps done, seconds used (over all resumes), and whether the schedule is complete.

    `validation` has the figures of the held-out clips at its end; `before` those before its first step, if it started
    from a checkpoint.
    """

    steps: int
    seconds: float
    complete: bool
    validation: dict[str, float]
    before: dict[str, float]


def load_data(config: TrainConfig, device: torch.device, channels: int = 3) -> tuple[Cache, Cache | None]:
    """The training cache, and that of the held-out clips at the size of samples (None without a holdout), for a model
    of so many `channels`."""
    kept = 1 - config.data.holdout_tail
    if kept < 1 and config.data.holdout:
        raise SettingsError("data.holdout names clips, data.holdout_tail keeps the end of all: give one of them")
    paths, held = split_holdout(list_media(config.data.paths), config.data.holdout)
    held = held or ([path for path in paths if not is_image(Path(path))] if kept < 1 else [])
    smallest = max(phase.crop for phase in config.phases)
    validation = None
    if held:
        count = config.sample_frames
        short = config.data.model_copy(update={"scales": (config.sample_lines,), "max_frames": count, "stretch": count})
        validation = load_cache(held, short, 16, device, (kept, 1.0) if kept < 1 else WHOLE, channels=channels)
    longest = max(phase.frames - 1 for phase in config.phases) * max(config.data.strides) + 1
    data = config.data.model_copy(update={"stretch": max(config.data.stretch, longest)})
    return load_cache(paths, data, smallest, device, (0.0, kept), channels=channels), validation


@dataclass
class _Run:
    """The state of the loop between steps; `number` is the next step."""

    config: TrainConfig
    step: TrainingStep
    sampler: Sampler
    held: Cache | None
    course: Course
    state: State | None  # of the current clips, if they continue in the next step
    number: int
    phase: int
    used: float  # seconds before this run was resumed
    began: float
    journal: Journal

    def elapsed(self) -> float:
        return self.used + time.monotonic() - self.began

    def progress(self) -> float:
        """The fraction of the schedule that is done, by steps or by time, whichever is further."""
        by_steps = self.number / self.config.steps
        limit = self.config.max_seconds
        return by_steps if limit is None else max(by_steps, self.elapsed() / limit)

    def save(self) -> None:
        position = {"step": self.number, "phase": self.phase, "seconds": self.elapsed()}
        save_run(self.config, self.step, self.course, self.state, position)

    def validate(self) -> dict[str, float]:
        """Judge the averaged weights on the held-out clips."""
        if not self.held:
            return {}
        result = judge_weights(self.step, self.held, self.config, self.number)
        self.journal.write("validate", self.number, seconds=self.elapsed(), **result)
        return result


def train(
    config: TrainConfig,
    model: Tokenizer,
    *,
    resume: bool = False,
    overwrite: bool = False,
    stop_after: float | None = None,
) -> Summary:
    """Train `model` until the schedule ends, or for `stop_after` seconds and at least one step; resuming is exact.

    Writes last.pt, log.jsonl, curve.png and sample_*.png into config.out, and leaves the averaged weights in `model`.
    `resume` continues the run in config.out, `overwrite` discards it. SettingsError if there is a run and neither is
    given, if there is none to resume, or if memory is too small. NonFiniteTraining names the step and tensor of a NaN.
    """
    prepare_folder(Path(config.out), resume, overwrite)
    run = _start_run(config, model, resume)
    before = find_first_validation(Path(config.out)) if resume else run.validate() if config.init else {}
    meter, first = _Meter(run.number), run.number
    while True:
        progress = run.progress()
        late = stop_after is not None and run.elapsed() - run.used >= stop_after
        stops = progress >= 1 or (late and run.number > first)
        if stops or (run.number > first and run.number % config.save_every == 0):
            run.save()
        if stops or (run.number > first and run.number % config.sample_every == 0):
            validation = run.validate()
        if stops:
            break
        terms, scale = _take_step(run, progress, meter)
        if run.number % config.log_every == 0:
            losses = {("" if n == "grad_norm" else "loss_") + n: v.item() for n, v in terms.items()}
            place = {"lr_scale": scale, "phase": run.phase, "progress": progress, "seconds": run.elapsed()}
            run.journal.write("train", run.number, **losses, **place, **meter.rates(run.number))
        run.number += 1

    plot_curves(Path(config.out))
    run.step.average.swap()
    return Summary(run.number, run.elapsed(), progress >= 1, validation, before)


def _start_run(config: TrainConfig, model: Tokenizer, resume: bool) -> _Run:
    device, began = pick_device(config.device), time.monotonic()
    torch.use_deterministic_algorithms(config.deterministic)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not config.deterministic
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    cache, held = load_data(config, device, model.config.in_channels)
    model.to(device).train()
    if isinstance(model, PredictiveTokenizer):
        model.reference_noise = config.reference_noise
    step = TrainingStep(model, config)
    course, state, position = Course(), None, {"step": 0, "phase": 0, "seconds": 0.0}
    if resume:
        course, state, position = load_run(config, step)
    else:
        (Path(config.out) / LAST).unlink(missing_ok=True)  # the overwritten run must not be resumed
    size = sum(p.numel() for p in model.parameters())
    log.info("event=start device=%s parameters=%d step=%d clips=%d", device, size, position["step"], len(cache.names))
    sampler = Sampler(cache, config.data, config.seed)
    number, phase = int(position["step"]), int(position["phase"])
    journal = Journal(Path(config.out), number)
    return _Run(config, step, sampler, held, course, state, number, phase, position["seconds"], began, journal)


def _take_step(run: _Run, progress: float, meter: "_Meter") -> tuple[dict[str, Tensor], float]:
    """Draw a batch and train on it -> losses by name, and the learning rate as a fraction of its peak."""
    config, index = run.config, run.config.phase_at(progress)
    if index != run.phase:
        run.phase = index
        run.course.leave()
    phase = config.phases[index]
    video, continuing = run.course.next_batch(run.sampler, run.number, phase)
    video = match_channels(video, run.step.model.config.in_channels)
    scale = phase.lr_scale * cosine(run.number, progress, config.optimizer)
    run.step.optimizer.set_lr(scale)
    weights = config.losses if phase.losses is None else phase.losses
    terms, state = run.step(run.number, video, run.state if continuing else None, weights)
    run.state = state if run.course.segments else None
    meter.frames += video.shape[0] * video.shape[2]
    return terms, scale


@dataclass
class _Meter:
    """Steps and frames per second since the last log line."""

    step: int
    time: float = field(default_factory=time.monotonic)
    frames: int = 0

    def rates(self, step: int) -> dict[str, float]:
        now = time.monotonic()
        seconds = max(1e-9, now - self.time)
        rates = {"steps_per_s": (step - self.step) / seconds, "frames_per_s": self.frames / seconds}
        self.step, self.time, self.frames = step, now, 0
        return rates
