"""Chooses a model's precision: tries each on a clip, and picks by its speed and its token agreement with float32."""

import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from streamtok.engine.configuration import OVER_SPACE, EngineConfiguration, EngineError
from streamtok.engine.gpu.graph import free_dead_streams
from streamtok.engine.optimized import apply_configuration
from streamtok.engine.planning import list_candidates, plan_trials
from streamtok.model import Tokenizer
from streamtok.weights.golden import reference_clip

log = logging.getLogger("streamtok.engine")

FLOOR = 0.9  # share of tokens equal to float32's that `auto` requires of a precision
NEAR = 1.05  # candidates within this factor in time count as equally fast, and agreement decides
SPARE = 1.1  # more threads must be faster by this factor; else they are left to the rest of the machine
GROUPS, FEW_GROUPS = 8, 4  # of a clip, to measure a precision and a number of threads


@dataclass(frozen=True)
class Trial:
    """The result of running one configuration on a clip."""

    configuration: EngineConfiguration
    tokens: Tensor  # or latents, (1, T', h, w) on the CPU
    ms: float  # median per group
    agreement: float = 1.0  # share of tokens equal to float32's


def choose(
    tok: Tokenizer, machine: EngineConfiguration, precision: str = "auto", clip: Tensor | None = None
) -> EngineConfiguration:
    """Measure each precision on this machine and choose the fastest whose tokens agree with float32's to FLOOR.

    `clip`: uint8 (1, 3, 1 + kG, H, W), preferably `count_frames` of real footage; None draws a synthetic one. The
    result has all candidates' agreement and milliseconds; they are logged too.
    """
    names = list_candidates(machine.device) if precision == "auto" else [precision]
    clip = reference_clip(count_frames(tok), *machine.size) if clip is None else clip
    trials = try_precisions(tok, machine, names, clip)
    best = pick_trial(trials, names)
    chosen = complete_choice(tok, trials, best, clip)
    for line in format_trials(trials, best):
        log.info("%s", line)
    return chosen


def count_frames(tok: Tokenizer) -> int:
    """How many frames a clip needs so that GROUPS groups can be measured."""
    return 1 + (GROUPS - 1) * tok.group


def try_precisions(tok: Tokenizer, machine: EngineConfiguration, names: list[str], clip: Tensor) -> dict[str, Trial]:
    """Run each of `plan_trials` on a clip uint8 (1, 3, T, H, W); without a graph if capturing one fails."""
    trials: dict[str, Trial] = {}
    for name, configuration in plan_trials(tok, machine, names).items():
        trial = _try_with_or_without_graph(tok, configuration, clip)
        reference = trials.get("float32", trial)  # the first
        trials[name] = replace(trial, agreement=compare_tokens(trial.tokens, reference.tokens))
    return trials


def _try_with_or_without_graph(tok: Tokenizer, configuration: EngineConfiguration, clip: Tensor) -> Trial:
    """As `try_kinds`, but without a graph if capturing one fails."""
    try:
        return try_kinds(tok, configuration, clip)
    except EngineError as error:
        if not configuration.graph:
            raise
        log.warning("precision=%s graph=no because=%s", configuration.precision, error)
    free_dead_streams()  # outside `except`, because the error's traceback refers to the stream
    return try_kinds(tok, replace(configuration, graph=False, kernels="plain"), clip)


def try_kinds(tok: Tokenizer, configuration: EngineConfiguration, clip: Tensor) -> Trial:
    """Run a configuration on a clip uint8 (1, 3, T, H, W), with each of OVER_SPACE if its kernels have several kinds of
    spatial attention; returns the fastest."""
    attends = tok.config.mid_attention or tok.config.attention_levels
    kinds = OVER_SPACE if configuration.kernels == "fused" and attends else (configuration.over_space,)
    trials = []
    for kind in kinds:
        trials.append(_measure(tok, replace(configuration, over_space=kind), clip))
        free_dead_streams()
    return min(trials, key=lambda trial: trial.ms)


def pick_trial(trials: dict[str, Trial], precisions: list[str]) -> str:
    """The name of the fastest trial in these precisions that reaches FLOOR; among equally fast ones, the most exact."""
    names = [name for name, trial in trials.items() if trial.configuration.precision in precisions]
    good = [name for name in names if trials[name].agreement >= FLOOR] or names
    limit = NEAR * min(trials[name].ms for name in good)
    return max((name for name in good if trials[name].ms <= limit), key=lambda name: trials[name].agreement)


def complete_choice(tok: Tokenizer, trials: dict[str, Trial], chosen: str, clip: Tensor) -> EngineConfiguration:
    """The configuration of the trial named `chosen`, with the measurements of all of them.

    On a CPU the number of threads is measured too, on `clip`, uint8 (1, 3, T, H, W).
    """
    agreement, times = ({name: getattr(trial, fact) for name, trial in trials.items()} for fact in ("agreement", "ms"))
    made = replace(trials[chosen].configuration, agreement=agreement, measured_ms=times)
    return replace(made, threads=_choose_threads(tok, made, clip)) if made.device == "cpu" else made


def format_trials(trials: dict[str, Trial], chosen: str) -> list[str]:
    """One line of text per trial; that named `chosen` is marked."""
    return [
        f"precision={trial.configuration.precision} convolutions={trial.configuration.convolutions} "
        f"ms_per_group={trial.ms:.2f} tokens_equal_to_float32={trial.agreement:.4f}" + " chosen" * (name == chosen)
        for name, trial in trials.items()
    ]


def _choose_threads(tok: Tokenizer, configuration: EngineConfiguration, clip: Tensor) -> int:
    """The fewest of 1, 2, 4, ... threads within SPARE of the fastest, up to PyTorch's number, which is restored.

    clip: uint8 (1, 3, T, H, W).
    """
    most, times = torch.get_num_threads(), {}
    counts = sorted({min(2**i, most) for i in range(most.bit_length() + 1)})
    if len(counts) == 1:
        return most
    few = clip[:, :, : 1 + (FEW_GROUPS - 1) * tok.group]
    try:
        for count in counts:
            times[count] = _measure(tok, replace(configuration, threads=count), few, time.perf_counter).ms
    finally:
        torch.set_num_threads(most)
    return min(count for count, ms in times.items() if ms <= SPARE * min(times.values()))


def compare_tokens(found: Tensor, wanted: Tensor) -> float:
    """Share of equal tokens (B, T, h, w); for continuous latents (B, C, T, h, w), 1 minus the relative error."""
    if found.dtype.is_floating_point:
        return 1 - float((found - wanted).norm() / wanted.norm())
    return float((found == wanted).float().mean())


def _measure(
    tok: Tokenizer, configuration: EngineConfiguration, clip: Tensor, clock: Callable[[], float] | None = None
) -> Trial:
    """Run a configuration on the keyframe and the whole groups of a clip (1, 3, T, H, W)."""
    stream = apply_configuration(tok, configuration).stream(1, *configuration.size)
    frames = clip.to(configuration.device)
    # on a CPU, other processes may run too: count this process's CPU time, over all threads
    clock = clock or (time.process_time if configuration.device == "cpu" else time.perf_counter)
    outs, times = [], []
    for end in range(1, clip.shape[2] + 1, tok.group):
        begin = clock()
        out = stream.step(frames[:, :, max(0, end - tok.group) : end])
        outs.append((out.latent.float() if out.indices is None else out.indices).cpu())
        times.append(1000 * (clock() - begin))
    return Trial(configuration, torch.cat(outs, -3), statistics.median(times[min(2, len(times) - 1) :]))
