"""Compares precisions on one clip: milliseconds per group, tokens equal to float32's, and PSNR of decoded pictures."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from streamtok.bench.clips import read_clip
from streamtok.bench.options import BenchOptions
from streamtok.engine.configuration import EngineConfiguration
from streamtok.engine.planning import INT8_UNITS, cpu_has, list_candidates, plan_precision
from streamtok.engine.precision import (
    complete_choice,
    count_frames,
    format_trials,
    pick_trial,
    try_kinds,
    try_precisions,
)
from streamtok.evaluation.layouts import video_to_unit
from streamtok.evaluation.metrics import psnr
from streamtok.model import Tokenizer
from streamtok.model.decoding import GridDecoder


def compare_precisions(
    tok: Tokenizer, machine: EngineConfiguration, options: BenchOptions, say: Callable[[str], None]
) -> tuple[EngineConfiguration, dict[str, Any]]:
    """Choose the engine to measure; returns it, and a comparison of the precisions that were tried, by name.

    Each has `ms` per group and `agreement`, the share of tokens equal to float32's. `psnr` in dB is of the clip's first
    frames, decoded from its tokens by the float32 decoder. The comparison is empty unless the options ask for it.
    """
    auto = options.precision == "auto"
    clip = read_clip(options.clip, options.size, count_frames(tok))
    if not (auto or options.compare):
        return try_kinds(tok, plan_precision(tok, machine, options.precision), clip).configuration, {}
    names = list_candidates(options.device) if auto else [options.precision]
    shown = ["int8"] if auto and options.device == "cpu" and cpu_has(INT8_UNITS) else []  # auto never chooses it
    trials = try_precisions(tok, machine, [*names, *shown], clip)
    chosen = pick_trial(trials, names)
    engine = complete_choice(tok, trials, chosen, clip) if auto else trials[chosen].configuration
    for line in format_trials(trials, chosen):
        say(line)
    agreement = {name: trial.agreement for name, trial in trials.items()}
    compared = {
        name: {"ms": trial.ms, "agreement": trial.agreement, "psnr": _psnr(tok, trial.tokens, clip, options.device)}
        for name, trial in trials.items()
    }
    return replace(engine, agreement=agreement), compared


def _psnr(tok: Tokenizer, tokens: Tensor, clip: Tensor, device: str) -> float:
    """PSNR in dB of decoded tokens (1, T', h, w) against the clip that they encode, uint8 (1, 3, T, H, W)."""
    decoder = GridDecoder(tok, device=device)
    shown = [decoder.frames(grid[0], i == 0).cpu() for i, grid in enumerate(tokens.split(1, -3))]
    decoded = torch.cat(shown, 1)
    return psnr(video_to_unit(clip[0, :, : decoded.shape[1]]), video_to_unit(decoded))
