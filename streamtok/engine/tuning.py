"""Optimizes a tokenizer for this machine: measures once, stores the engine configuration, reuses it from then on."""

import logging
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from streamtok.engine.configuration import EngineConfiguration, inspect_machine, load_stored, store
from streamtok.engine.optimized import apply_configuration, describe_engine
from streamtok.engine.precision import choose
from streamtok.model import Tokenizer

log = logging.getLogger("streamtok.engine")

MODES = ("auto", "eager")
Engine = EngineConfiguration | dict[str, Any] | str  # a configuration, its dict, or one of MODES


def optimize(
    tok: Tokenizer,
    engine: Engine = "auto",
    *,
    size: tuple[int, int] = (256, 448),
    device: str | None = None,
    precision: str = "auto",
) -> Tokenizer:
    """Make `tok` fast on this machine for frames of `size` (height, width); `load` does this for a model by name.

    `engine`: "auto" takes the stored configuration for these weights, machine and size, or measures and stores one. A
    cache that cannot be written is only a warning. "eager" runs PyTorch's layers in `precision` ("auto": float32). A
    configuration, or its dict from `info` or a recording, is taken as it is.

    Raises ValueError for what cannot run, EngineError for what does not fit into memory.
    """
    if isinstance(engine, dict):
        engine = EngineConfiguration.from_dict(engine)
    if isinstance(engine, EngineConfiguration):
        if engine.fingerprint:
            tok.check_fingerprint(engine.fingerprint, "the engine configuration is for weights")
        return apply_configuration(tok, engine)
    if engine not in MODES:
        raise ValueError(f"engine is {engine!r}, expected one of {', '.join(MODES)} or an EngineConfiguration")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    machine = replace(inspect_machine(tok.fingerprint, size, device), deterministic=tok.deterministic)
    if engine == "eager":
        return apply_configuration(tok, replace(machine, precision="float32" if precision == "auto" else precision))
    stored, reasons = load_stored(machine)
    if stored and precision in ("auto", stored.precision):
        log.info("engine=stored precision=%s kernels=%s graph=%s", stored.precision, stored.kernels, stored.graph)
        return apply_configuration(tok, stored)
    return _measure_and_store(tok, machine, precision, "; ".join(reasons))


def _measure_and_store(
    tok: Tokenizer, machine: EngineConfiguration, precision: str, because: str, clip: Tensor | None = None
) -> Tokenizer:
    chosen = choose(tok, machine, precision, clip)
    try:
        stored = str(store(chosen))
    except OSError as error:
        stored = "nowhere"
        log.warning("engine=unstored because=%s; set STREAMTOK_CACHE, or each start measures", error)
    log.info("engine=chosen precision=%s stored=%s because=%s", chosen.precision, stored, because)
    return apply_configuration(tok, chosen)


def prepare(
    tok: Tokenizer, size: tuple[int, int], compile: bool = False, clip: Tensor | None = None
) -> EngineConfiguration:
    """Do ahead of time what a node does at its first start with frames of `size` (H, W).

    It measures and stores the engine configuration, compiles what that needs, and runs two steps. `compile` makes
    torch.compile part of the stored choice. `clip`, uint8 (1, 3, T, H, W) as in `choose`, should look like what the
    cameras see; it is measured even if a configuration is stored. Returns what `engine="auto"` uses from now on.
    EngineError if the configuration cannot run, OSError if it cannot be stored.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if clip is None:
        fast = optimize(tok, size=size, device=device)
    else:
        fast = _measure_and_store(tok, inspect_machine(tok.fingerprint, size, device), "auto", "a clip was given", clip)
    engine = describe_engine(fast)
    if compile and not engine.compile:
        engine = replace(engine, kernels="plain", convolutions="direct", graph=False, compile=True)
        fast = apply_configuration(tok, engine)
    stream = fast.stream(1, *size)
    for frames in (1, tok.group):
        stream.step(torch.zeros(1, fast.config.in_channels, frames, *size, dtype=torch.uint8, device=fast.device))
    store(engine)
    return engine
