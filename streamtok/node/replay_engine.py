"""A replay computes as the recorded run did: same device, precision, kernels and threads, where this machine can."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from streamtok.engine.configuration import EngineConfiguration, inspect_machine
from streamtok.engine.loading import load, pick_device

NOT_COMPARED = ("size", "measured_ms", "agreement")  # of an engine configuration: what was measured, and for what


def load_as_recorded(
    model: str, engine: dict[str, Any], device: str = "auto", deterministic: bool | None = None
) -> Any:
    """The tokenizer `model` on the engine configuration that a recording names, or on this machine's default if none
    was recorded, or one for other weights or another device.

    `device` and `deterministic` override it when given. Raises ValueError for a model that is not there.
    """
    recorded = EngineConfiguration.from_dict(engine)
    if deterministic is None:
        deterministic = recorded.deterministic
    tokenizer = load(model, deterministic=deterministic)
    chosen = pick_device("cpu" if device == "auto" and engine and recorded.device == "cpu" else device).type
    if not engine or chosen != recorded.device or recorded.fingerprint not in ("", tokenizer.fingerprint):
        return load(tokenizer, engine="default", device=chosen)
    if deterministic != recorded.deterministic:
        eager = EngineConfiguration(device=chosen, threads=recorded.threads, slots_per_step=recorded.slots_per_step)
        recorded = replace(eager, deterministic=deterministic)
    machine = inspect_machine(tokenizer.fingerprint, recorded.size, chosen)
    return load(tokenizer, engine=recorded.move_to(machine), device=chosen)


def engine_differences(recorded: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What is different in the engine configuration, which tokens may depend on; nothing if none was recorded."""
    then = EngineConfiguration.from_dict(recorded).to_dict() if recorded else {}
    return [
        f"{name}: recorded {value!r}, now {now[name]!r}"
        for name, value in then.items()
        if name not in NOT_COMPARED and value not in ("", now[name])
    ]
