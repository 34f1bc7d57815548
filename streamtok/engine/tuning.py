"""How a tokenizer becomes fast on this machine: measured once, stored, and from then on taken as stored."""

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
    """Make `tok` fast on this machine for frames of `size` (height, width); `load` does, with a model of that name.

    `engine`: "auto" takes the stored configuration of these weights, machine and size, and measures and stores one
    if there is none (a cache that cannot be written costs a warning). "eager" runs plainly in `precision` (auto:
    float32). A configuration (or its dict, from `info` or a recording) is taken as it is.

    Raises ValueError for what cannot run, EngineError for what does not fit.
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
    chosen, table = choose(tok, machine, precision, clip=clip)
    for line in table:
        log.info("%s", line)
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
    """Do now what a node would do at its first start for frames of `size` (H, W).

    It measures and stores the engine configuration, compiles what that needs, and takes two steps. `compile`: run the
    step through torch.compile from now on. `clip`, uint8 (1, 3, T, H, W) as `choose` takes it: measure on it, whatever
    is stored; it should look like what the cameras see. Returns what `engine="auto"` takes from now on. EngineError if
    the configuration cannot run, OSError if it cannot be stored.
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
