"""Chooses a model's precision from its measured speed and its token agreement with float32; `tuning` calls it."""

import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from streamtok.engine.configuration import OVER_SPACE, EngineConfiguration, EngineError
from streamtok.engine.cpu import interleaved, winograd
from streamtok.engine.gpu.graph import free_dead_streams
from streamtok.engine.optimized import apply_configuration
from streamtok.model import Tokenizer
from streamtok.weights.golden import reference_clip

log = logging.getLogger("streamtok.engine")

FLOOR = 0.9  # share of tokens equal to float32's that `auto` requires of a precision
BFLOAT16_UNITS = "avx512_bf16", "amx_bf16", "bf16"  # without one of these, bfloat16 is slower than float32
INT8_UNITS = "avx512_vnni", "avx_vnni"  # add 8-bit products in 32 bits; without one, int8 is no faster
SPARE = 1.1  # more threads must be faster by this factor; else they are left to the rest of the machine
GROUPS = 8  # of a clip that are measured
NEAR = 1.05  # candidates within this factor in time count as equally fast, and agreement decides


def list_candidates(device: str) -> list[str]:
    """The precisions that `auto` tries on a device, float32 first; float16 only on a GPU. int8 has to be asked for:
    with it, shipped weights reach FLOOR on most clips, not on all (docs/performance.md).
    """
    if device == "cuda":
        return ["float32", "bfloat16", "float16"]
    return ["float32", "bfloat16"] if cpu_has(BFLOAT16_UNITS) else ["float32"]


def cpu_has(units: tuple[str, ...]) -> bool:
    """Whether /proc/cpuinfo lists one of these instruction sets."""
    try:
        return not set(units).isdisjoint(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False


def plan_precision(tok: Tokenizer, machine: EngineConfiguration, precision: str) -> EngineConfiguration:
    """The configuration to start from in a precision, before anything is measured.

    It uses our own layers where they fit, and Winograd on processors where it always was faster. On a GPU the step is
    captured as a graph. A deterministic tokenizer keeps PyTorch's layers, on which its whole clips run too.
    """
    gpu = machine.device == "cuda"
    threads = 0 if gpu else torch.get_num_threads()
    made = replace(machine, precision=precision, graph=gpu, threads=threads, slots_per_step=1, kernels="plain")
    if tok.deterministic:
        return made
    if not gpu:
        known = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
        convolutions = "winograd" if known and _may_use_winograd(tok, made) else "direct"
        kernels = "plain" if interleaved.find_interleaving_obstacle(tok) else "interleaved"
        return replace(made, kernels=kernels, convolutions=convolutions)
    if precision == "int8" or not machine.triton_version or torch.cuda.get_device_capability() < (9, 0):
        return made
    from streamtok.engine.gpu.fused import find_fusing_obstacle  # needs triton

    return made if find_fusing_obstacle(tok.cast(made.dtype, "cuda")) else replace(made, kernels="fused")


def _may_use_winograd(tok: Tokenizer, configuration: EngineConfiguration) -> bool:
    there = (configuration.device, configuration.precision, tok.deterministic) == ("cpu", "float32", False)
    return there and any(map(winograd.is_wide, tok.modules()))


@dataclass(frozen=True)
class Trial:
    """The result of running one configuration on a clip."""

    configuration: EngineConfiguration
    tokens: Tensor  # or latents, (1, T', h, w) on the CPU
    ms: float  # median per group
    agreement: float  # share of tokens equal to float32's


def choose(
    tok: Tokenizer,
    machine: EngineConfiguration,
    precision: str = "auto",
    groups: int = GROUPS,
    clip: Tensor | None = None,
) -> tuple[EngineConfiguration, list[str]]:
    """Measure each precision on this machine and choose the fastest whose tokens agree with float32's to FLOOR.

    `clip`: uint8 (1, 3, T, H, W) of 1 + (groups - 1) * G frames, preferably real footage; None draws a synthetic one.
    Returns the configuration, with all candidates' agreement and milliseconds, and a table of lines to print.
    """
    names = list_candidates(machine.device) if precision == "auto" else [precision]
    frames = reference_clip(groups * tok.group, *machine.size) if clip is None else clip
    trials = try_precisions(tok, machine, names, frames, groups)
    chosen = pick_configuration(tok, trials, names, frames)
    return chosen, format_trials(trials, pick_trial(trials, names))


def plan_trials(tok: Tokenizer, machine: EngineConfiguration, names: list[str]) -> dict[str, EngineConfiguration]:
    """The configurations to try, by name; first the reference, float32 with PyTorch's convolutions."""
    plans = {name: plan_precision(tok, machine, name) for name in dict.fromkeys(["float32", *names])}
    reference = replace(plans.pop("float32"), convolutions="direct")
    made = {"float32": reference}
    if _may_use_winograd(tok, reference):
        made["float32 winograd"] = replace(reference, convolutions="winograd")
    return made | plans


def try_precisions(
    tok: Tokenizer, machine: EngineConfiguration, names: list[str], frames: Tensor, groups: int
) -> dict[str, Trial]:
    """Run each of `plan_trials` on frames uint8 (B, 3, T, H, W); without a graph if capturing one fails."""
    trials: dict[str, Trial] = {}
    for name, configuration in plan_trials(tok, machine, names).items():
        measured, tokens, ms = _measure_with_or_without_graph(tok, configuration, frames, groups)
        wanted = trials["float32"].tokens if trials else tokens
        trials[name] = Trial(measured, tokens, ms, compare_tokens(tokens, wanted))
    return trials


def _measure_with_or_without_graph(
    tok: Tokenizer, configuration: EngineConfiguration, frames: Tensor, groups: int
) -> tuple[EngineConfiguration, Tensor, float]:
    """As `measure_kinds`, but without a graph if capturing one fails."""
    try:
        return measure_kinds(tok, configuration, frames, groups)
    except EngineError as error:
        if not configuration.graph:
            raise
        log.warning("precision=%s graph=no because=%s", configuration.precision, error)
    free_dead_streams()  # outside `except`, because the error's traceback refers to the stream
    return measure_kinds(tok, replace(configuration, graph=False, kernels="plain"), frames, groups)


def measure_kinds(
    tok: Tokenizer, configuration: EngineConfiguration, frames: Tensor, groups: int
) -> tuple[EngineConfiguration, Tensor, float]:
    """The configuration with the fastest of OVER_SPACE, where its kernels have several kinds of spatial attention.

    Also returns its tokens (or latents) on a clip uint8 (B, 3, T, H, W), and the median milliseconds per group.
    """
    attends = tok.config.mid_attention or tok.config.attention_levels
    kinds = OVER_SPACE if configuration.kernels == "fused" and attends else (configuration.over_space,)
    found = []
    for kind in kinds:
        made = replace(configuration, over_space=kind)
        found.append((made, *_measure(tok, made, frames, groups)))
        free_dead_streams()
    return min(found, key=lambda one: one[2])


def pick_trial(trials: dict[str, Trial], precisions: list[str]) -> str:
    """The name of the fastest trial in these precisions that reaches FLOOR; among equally fast ones, the most exact."""
    names = [name for name, trial in trials.items() if trial.configuration.precision in precisions]
    good = [name for name in names if trials[name].agreement >= FLOOR] or names
    limit = NEAR * min(trials[name].ms for name in good)
    return max((name for name in good if trials[name].ms <= limit), key=lambda name: trials[name].agreement)


def pick_configuration(
    tok: Tokenizer, trials: dict[str, Trial], precisions: list[str], frames: Tensor
) -> EngineConfiguration:
    """The configuration of `pick_trial`, with all measurements in it.

    On a CPU the number of threads is measured too, on `frames`, uint8 (1, 3, T, H, W).
    """
    agreement, times = ({name: getattr(trial, fact) for name, trial in trials.items()} for fact in ("agreement", "ms"))
    best = trials[pick_trial(trials, precisions)].configuration
    chosen = replace(best, agreement=agreement, measured_ms=times)
    return replace(chosen, threads=_choose_threads(tok, chosen, frames)) if chosen.device == "cpu" else chosen


def format_trials(trials: dict[str, Trial], chosen: str) -> list[str]:
    """One line of text per trial; that named `chosen` is marked."""
    return [
        f"precision={trial.configuration.precision} convolutions={trial.configuration.convolutions} "
        f"ms_per_group={trial.ms:.2f} tokens_equal_to_float32={trial.agreement:.4f}" + " chosen" * (name == chosen)
        for name, trial in trials.items()
    ]


def _choose_threads(tok: Tokenizer, configuration: EngineConfiguration, frames: Tensor) -> int:
    """The fewest of 1, 2, 4, ... threads within SPARE of the fastest, up to PyTorch's number, which is restored.

    frames: uint8 (1, 3, T, H, W).
    """
    most, times = torch.get_num_threads(), {}
    counts = sorted({min(2**i, most) for i in range(most.bit_length() + 1)})
    if len(counts) == 1:
        return most
    try:
        for count in counts:
            made = replace(configuration, threads=count)
            times[count] = _measure(tok, made, frames, min(4, frames.shape[2] // tok.group), time.perf_counter)[1]
    finally:
        torch.set_num_threads(most)
    return min(count for count, ms in times.items() if ms <= SPARE * min(times.values()))


def compare_tokens(found: Tensor, wanted: Tensor) -> float:
    """Share of equal tokens (B, T, h, w); for continuous latents (B, C, T, h, w), 1 minus the relative error."""
    if found.dtype.is_floating_point:
        return 1 - float((found - wanted).norm() / wanted.norm())
    return float((found == wanted).float().mean())


def _measure(
    tok: Tokenizer,
    configuration: EngineConfiguration,
    frames: Tensor,
    groups: int,
    clock: Callable[[], float] | None = None,
) -> tuple[Tensor, float]:
    """Tokens (or latents) of a clip (B, 3, T, H, W), on the CPU, and the median milliseconds per group."""
    stream = apply_configuration(tok, configuration).stream(1, *configuration.size)
    frames = frames.to(configuration.device)
    # on a CPU, other processes may run too: count this process's CPU time, over all threads
    clock = clock or (time.process_time if configuration.device == "cpu" else time.perf_counter)
    outs, times = [], []
    for i in range(groups):
        last = 1 + i * tok.group
        begin = clock()
        out = stream.step(frames[:, :, max(0, last - tok.group) : last])
        outs.append((out.latent.float() if out.indices is None else out.indices).cpu())
        times.append(1000 * (clock() - begin))
    return torch.cat(outs, -3), statistics.median(times[min(2, groups - 1) :])
