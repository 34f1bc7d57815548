"""A replay computes as the recorded run did: same device, precision, kernels and threads, where this machine can."""

from __future__ import annotations

import logging
from typing import Any

from streamtok.loading import load, pick_device, place

log = logging.getLogger("streamtok.replay")

NOT_CHOICES = ("measured_ms", "agreement")  # of an engine configuration: what was measured, not what was chosen


def load_as_recorded(
    model: str, engine: dict[str, Any], device: str = "auto", deterministic: bool | None = None
) -> Any:
    """The tokenizer `model` on the engine configuration that a recording names (empty: this machine's default).

    `device` and `deterministic` override it when given. Raises ValueError for a model that is not there.
    """
    if deterministic is None:
        deterministic = bool(engine.get("deterministic", False))
    tokenizer = load(model, deterministic=deterministic)
    device = recorded_device(engine) if device == "auto" else pick_device(device).type
    if "kernels" in engine and engine.get("device") == device and not deterministic:
        from streamtok.engine.tuning import optimize

        return optimize(tokenizer, engine)
    if not engine:
        return place(tokenizer, device)
    use_threads(engine)
    return tokenizer.to(pick_device(device))


def recorded_device(engine: dict[str, Any]) -> str:
    """ "cpu" or "cuda" as recorded, as far as this machine has it; "auto" if nothing is recorded."""
    import torch

    if "device" not in engine:
        return "auto"
    return "cpu" if engine["device"] == "cpu" or not torch.cuda.is_available() else "cuda"


def use_threads(engine: dict[str, Any]) -> None:
    """Compute with as many threads as the recorded engine did: on a CPU the last bits depend on it."""
    import torch

    threads = engine.get("threads")
    if isinstance(threads, int) and threads > 0 and threads != torch.get_num_threads():
        torch.set_num_threads(threads)


def engine_differences(recorded: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What is different in the engine configuration, which tokens may depend on; nothing if none was recorded."""
    names = sorted((recorded.keys() | now.keys()) - set(NOT_CHOICES)) if recorded else []
    pairs = [(name, recorded.get(name), now.get(name)) for name in names]
    return [f"{name}: recorded {then!r}, now {here!r}" for name, then, here in pairs if then != here]
