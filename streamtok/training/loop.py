"""The training loop: draws batches, takes steps, logs, validates, saves, and stops by steps or by time."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from streamtok.engine.loading import pick_device
from streamtok.io.suffixes import is_image
from streamtok.model import PredictiveTokenizer, Tokenizer
from streamtok.model.frames import match_channels
from streamtok.settings.errors import SettingsError
from streamtok.training.batches import Sampler
from streamtok.training.cache import Cache, load_cache
from streamtok.training.config import TrainConfig
from streamtok.training.footage import WHOLE, list_media, split_holdout
from streamtok.training.journal import Journal, find_first_validation, plot_curves
from streamtok.training.optimizer import cosine
from streamtok.training.saving import LAST, Progress, load_run, prepare_folder, save_run
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
    """The parts of a run; `progress` changes from step to step. `began` is as if it had never been interrupted.

    `frames` counts those since the last line of the journal, which was written at step and time `logged`.
    """

    config: TrainConfig
    training: TrainingStep
    sampler: Sampler
    held: Cache | None
    progress: Progress
    journal: Journal
    began: float
    frames: int = 0
    logged: tuple[int, float] = (0, 0.0)

    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def share_done(self) -> float:
        """The fraction of the schedule that is done, by steps or by time, whichever is further."""
        by_steps = self.progress.step / self.config.steps
        limit = self.config.max_seconds
        return by_steps if limit is None else max(by_steps, self.elapsed() / limit)

    def save(self) -> None:
        self.progress.seconds = self.elapsed()
        save_run(self.config, self.training, self.progress)

    def validate(self) -> dict[str, float]:
        """Judge the averaged weights on the held-out clips; empty if there are none."""
        if not self.held:
            return {}
        result = judge_weights(self.training, self.held, self.config, self.progress.step)
        self.journal.write("validate", self.progress.step, seconds=self.elapsed(), **result)
        return result

    def take_step(self, done: float) -> None:
        """Draw a batch, train on it, and log the step if it is time; `done` is that of `share_done`."""
        config, progress = self.config, self.progress
        index = config.phase_at(done)
        if index != progress.phase:
            progress.phase = index
            progress.course.leave()
        phase = config.phases[index]
        video, continuing = progress.course.next_batch(self.sampler, progress.step, phase)
        video = match_channels(video, self.training.model.config.in_channels)
        scale = phase.lr_scale * cosine(progress.step, done, config.optimizer)
        self.training.optimizer.set_lr(scale)
        weights = config.losses if phase.losses is None else phase.losses
        losses, state = self.training(progress.step, video, progress.state if continuing else None, weights)
        progress.state = state if progress.course.segments else None
        self.frames += video.shape[0] * video.shape[2]
        if progress.step % config.log_every == 0:
            self._log(losses, lr_scale=scale, phase=index, progress=done)
        progress.step += 1

    def _log(self, losses: dict[str, Tensor], **place: float) -> None:
        """Write a step's losses, scalars by name with `grad_norm`, to the journal; this waits for the device."""
        values = {("" if name == "grad_norm" else "loss_") + name: value.item() for name, value in losses.items()}
        (first, then), step, now = self.logged, self.progress.step, time.monotonic()
        rates = {"steps_per_s": (step - first) / (now - then), "frames_per_s": self.frames / (now - then)}
        self.journal.write("train", step, **values, **place, seconds=self.elapsed(), **rates)
        self.logged, self.frames = (step, now), 0


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
    began = time.monotonic()
    run = _start_run(config, model, resume, began)
    progress, first = run.progress, run.progress.step
    before = find_first_validation(Path(config.out)) if resume else run.validate() if config.init else {}
    run.logged = first, time.monotonic()
    while True:
        done = run.share_done()
        late = stop_after is not None and time.monotonic() - began >= stop_after
        stops = done >= 1 or (late and progress.step > first)
        if stops or (progress.step > first and progress.step % config.save_every == 0):
            run.save()
        if stops or (progress.step > first and progress.step % config.sample_every == 0):
            validation = run.validate()
        if stops:
            break
        run.take_step(done)

    plot_curves(Path(config.out))
    run.training.average.swap()
    return Summary(progress.step, run.elapsed(), done >= 1, validation, before)


def _start_run(config: TrainConfig, model: Tokenizer, resume: bool, now: float) -> _Run:
    """Load data and optimizer, and the run to `resume`; `now` is the monotonic time, s, from which its time counts."""
    device = pick_device(config.device)
    torch.use_deterministic_algorithms(config.deterministic)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not config.deterministic
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    cache, held = load_data(config, device, model.config.in_channels)
    model.to(device).train()
    if isinstance(model, PredictiveTokenizer):
        model.reference_noise = config.reference_noise
    training = TrainingStep(model, config)
    if resume:
        progress = load_run(config, training)
    else:
        progress = Progress()
        (Path(config.out) / LAST).unlink(missing_ok=True)  # the overwritten run must not be resumed
    size = sum(p.numel() for p in model.parameters())
    log.info("event=start device=%s parameters=%d step=%d clips=%d", device, size, progress.step, len(cache.names))
    sampler, journal = Sampler(cache, config.data, config.seed), Journal(Path(config.out), progress.step)
    return _Run(config, training, sampler, held, progress, journal, now - progress.seconds)
