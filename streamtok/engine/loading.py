"""Loads a tokenizer, checks its fingerprint, puts it on a device and applies an engine: `load`, which commands use."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from streamtok.checkpoint import load_checkpoint
from streamtok.config import PRESETS
from streamtok.engine.configuration import EngineConfiguration, inspect_machine
from streamtok.engine.optimized import apply_configuration, describe_engine
from streamtok.engine.planning import plan_precision
from streamtok.engine.tuning import MODES, Engine, optimize
from streamtok.model import Tokenizer
from streamtok.names import parse_device


def load(
    name: str | Path | Tokenizer,
    deterministic: bool = False,
    *,
    engine: Engine | Path | None = None,
    size: tuple[int, int] = (256, 448),
    device: str | None = None,
    dtype: torch.dtype | None = None,
    threads: int | None = None,
    slots_per_step: int | None = None,
    expect: str | None = None,
) -> Tokenizer:
    """A tokenizer by preset name, checkpoint folder or published Cosmos checkpoint, in eval mode.

    Args:
        name: what to load, or a tokenizer that is loaded already.
        deterministic: run steps of one slot and one group everywhere, on PyTorch's layers; not with engine "auto".
        engine: None runs float32 on PyTorch's layers. "default", which commands use, is float32 too. On a CPU it uses
            our own, faster layers where they fit (same latents within rounding), and measures and stores nothing.
            "auto" measures once on this machine and stores its choice. "eager" is PyTorch's float32 as an engine. An
            `EngineConfiguration`, its dict, or the path of its JSON file is taken as it is.
        size: (height, width) of the frames to optimize for.
        device: "cpu", "cuda", "cuda:N" or "auto"; None keeps the weights' device with engine None, else means "auto".
        dtype: the precision of the weights, as by `Tokenizer.cast`; only with engine None, for engines have their own.
        threads: CPU threads of this process; overrides an engine's stored number.
        slots_per_step: as in `EngineConfiguration`; overrides an engine's stored number.
        expect: the fingerprint that the weights must have.

    Raises:
        ValueError: for a name, device, dtype, engine or fingerprint that does not fit.
        EngineError: if memory does not suffice.
    """
    tokenizer = name if isinstance(name, Tokenizer) else load_checkpoint(name, deterministic)
    if expect is not None:
        tokenizer.check_fingerprint(expect)
    if threads is not None:
        torch.set_num_threads(threads)
    if engine is None:
        return (tokenizer.to(pick_device(device)) if device else tokenizer).cast(dtype)
    if dtype is not None:
        raise ValueError(f"dtype is {dtype} beside engine {engine!r}, which has its own precision: give one of them")
    if deterministic and engine == "auto":
        raise ValueError("deterministic=True runs one slot and one group at a time, plainly; drop engine='auto'")
    chosen = pick_device(device)
    if engine == "default" and chosen.type != "cpu":
        return tokenizer.to(chosen)
    if engine == "default":
        machine = inspect_machine(tokenizer.fingerprint, (0, 0))
        fast = apply_configuration(tokenizer, plan_precision(tokenizer, machine, "float32"))
    else:
        padded = tokenizer.config.pad_size(size)
        fast = optimize(tokenizer, read_engine(engine), size=padded, device=chosen.type)
    made = wanted = describe_engine(fast)
    if threads is not None and wanted.device == "cpu":
        wanted = replace(wanted, threads=threads)
    if slots_per_step is not None:
        wanted = replace(wanted, slots_per_step=slots_per_step)
    return fast if wanted == made else apply_configuration(fast, wanted)


def choose_model(sender: str, named: str | None, given: str | Path | None, *, local: bool = False) -> str | Path:
    """The model to load to decode `sender` (a stream, a file): the `given` one, else the preset `named` by it.

    A name from the network may only be a preset, never a path: a sender must not choose what is read here. A file of
    this machine (`local`) may also name one of our checkpoint folders, which hold only JSON and safetensors.
    ValueError asks for --model if the name is neither.
    """
    if given is not None:
        return given
    if isinstance(named, str) and (named in PRESETS or (local and (Path(named) / "model.safetensors").is_file())):
        return named
    called = f"names the model {named!r}, which is no preset" if named else "does not name the model that made it"
    raise ValueError(f"{sender} {called}: give the checkpoint that made it with --model")


def default_engine(device: str | None) -> str:
    """The engine of nodes that encode for long: "auto", which measures, on a GPU; else "default"."""
    return "default" if pick_device(device).type == "cpu" else "auto"


def read_engine(engine: Engine | Path) -> Engine:
    """An engine as `optimize` takes it; a path of a JSON file is read. ValueError if it cannot be."""
    if isinstance(engine, EngineConfiguration | dict) or engine in MODES:
        return engine
    try:
        return json.loads(Path(engine).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"engine {str(engine)!r}: expected auto, eager or auto's JSON file: {error}") from error


def pick_device(device: str | None) -> torch.device:
    """The named device, or for None and "auto" a GPU if there is one; ValueError if the device does not exist.

    `cuda:N` makes that GPU the process's current one. TF32 is turned off, so that float32 is float32.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if device in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(parse_device(device))
    except ValueError as error:
        raise ValueError(f"device {device!r}: {error}") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r}: this machine has no CUDA device that torch can use; use cpu")
    if chosen.index is not None:
        if chosen.index >= torch.cuda.device_count():
            raise ValueError(f"device {device!r}: this machine has {torch.cuda.device_count()}, counted from 0")
        torch.cuda.set_device(chosen)
    return chosen
