"""Models loaded, put on their device, made fast, and described for those who must reproduce their tokens."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamtok.names import parse_device

if TYPE_CHECKING:
    import torch

    from streamtok.model import Tokenizer
    from streamtok.settings.rig import RigSettings


def load(
    name: str | Path,
    deterministic: bool = False,
    *,
    engine: Any = None,
    size: tuple[int, int] = (256, 448),
    device: str | None = None,
) -> "Tokenizer":
    """A tokenizer by preset name, checkpoint folder or published Cosmos checkpoint, in eval mode.

    `engine` makes it fast for frames of `size` (height, width): "auto" measures once on this machine and stores what it
    chose, an `EngineConfiguration` (or its dict) is taken as it is, None leaves it plain in float32. See
    `streamtok.checkpoint.checkpoint.load` and `streamtok.engine.optimize` for what they raise.
    """
    from streamtok.checkpoint import checkpoint

    tokenizer = checkpoint.load(name, deterministic)
    if engine is None:
        return tokenizer.to(pick_device(device)) if device else tokenizer
    if deterministic:
        raise ValueError(f"deterministic=True runs one slot and one group at a time, plainly; drop engine={engine!r}")
    from streamtok.engine import optimize

    return optimize(tokenizer, engine, size=size, device=device)


def load_for(sender: str, named: str | None, given: str | Path | None, *, local: bool = False) -> "Tokenizer":
    """The tokenizer to decode what `sender` (a stream, a file) holds: the `given` one, or the preset that it names.

    A name from the network is a preset's, never a path: whoever sends it must not choose what is read here. A file of
    this machine (`local`) may also name a checkpoint folder of ours, which holds nothing but JSON and safetensors.
    ValueError asks for --model where it is none.
    """
    from streamtok.config import PRESETS

    known = isinstance(named, str) and (named in PRESETS or (local and (Path(named) / "model.safetensors").is_file()))
    if given is None and not known:
        called = f"names the model {named!r}, which is no preset" if named else "does not name the model that made it"
        raise ValueError(f"{sender} {called}: give the checkpoint that made it with --model")
    return load(given or str(named))


def load_tokenizer(settings: "RigSettings", size: tuple[int, int] | None = None, slots_per_step: int = 1) -> Any:
    """The model of a rig on its engine, for frames of `size` (H, W) and for streams that step so many slots at once."""
    import torch

    from streamtok.engine.engine import apply

    tokenizer = load(settings.model, deterministic=settings.deterministic)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    fast = on_engine(tokenizer, settings.engine, size or (256, 448), settings.device)
    wanted = fast.engine
    # what the rig asks for holds over what was stored or is in a file
    if settings.threads is not None and wanted.device == "cpu":
        wanted = replace(wanted, threads=settings.threads)
    if slots_per_step != 1:
        wanted = replace(wanted, slots_per_step=slots_per_step)
    return fast if wanted == fast.engine else apply(fast, wanted)


def on_engine(tokenizer: "Tokenizer", choice: str | None, size: tuple[int, int], device: str | None) -> Any:
    """A tokenizer on the engine that `--engine` names, for frames of `size` (H, W): "auto", "eager", or the JSON file
    of a configuration; ValueError for anything else.

    None is "auto" on a GPU and what `place` does on a CPU; deterministic mode is always eager.
    """
    from streamtok.engine.tuning import MODES, optimize

    chosen = pick_device(device).type
    if choice is None and chosen == "cpu":
        return place(tokenizer, chosen)
    engine = choice or "auto"
    try:
        named = engine if engine in MODES else json.loads(Path(engine).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"engine {engine!r}: expected auto, eager or auto's JSON file: {error}") from error
    step = tokenizer.config.spatial_compression
    height, width = (-(-side // step) * step for side in size)
    return optimize(tokenizer, "eager" if tokenizer.deterministic else named, size=(height, width), device=chosen)


def place(tokenizer: "Tokenizer", device: str | None = None) -> Any:
    """A tokenizer on its device as commands run it unless told otherwise: float32, nothing measured, nothing stored.

    On a CPU that is on our own layers where they fit the model (`engine.cpu`): the latents of PyTorch's layers within
    rounding, in less time. Deterministic tokenizers stay plain.
    """
    chosen = pick_device(device)
    if chosen.type != "cpu":
        return tokenizer.to(chosen)
    from streamtok.engine.configuration import here
    from streamtok.engine.engine import apply
    from streamtok.engine.precision import how

    return apply(tokenizer, how(tokenizer, here(tokenizer.fingerprint, (0, 0)), "float32"))


def pick_device(device: str | None) -> "torch.device":
    """The device that was named, or a GPU if there is one; ValueError if it is not there.

    After `cuda:N` that GPU is what "cuda" means in this process, and float32 is float32 on it: TF32 is off.
    """
    import torch

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


def engine_configuration(tokenizer: "Tokenizer") -> dict[str, Any]:
    """How a tokenizer computes, which decides the last bits of a latent: published and recorded."""
    from streamtok.engine.configuration import here
    from streamtok.engine.engine import OptimizedTokenizer

    if isinstance(tokenizer, OptimizedTokenizer):
        return tokenizer.engine.to_dict()
    machine, precision = here(tokenizer.fingerprint, (0, 0), tokenizer.device.type), str(tokenizer.dtype)
    plain = replace(
        machine, precision=precision.removeprefix("torch."), slots_per_step=0, deterministic=tokenizer.deterministic
    )
    return plain.to_dict()
