"""Models loaded, put on their device, made fast, and described for those who must reproduce their tokens."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamtok.names import parse_device

if TYPE_CHECKING:
    import torch

    from streamtok.model import Tokenizer
    from streamtok.settings import RigSettings


def load(
    name: str | Path, deterministic: bool = False, *, engine: Any = None, size: tuple[int, int] = (256, 448),
    device: str | None = None,
) -> "Tokenizer":  # fmt: skip
    """A tokenizer by preset name, checkpoint folder or published Cosmos checkpoint, in eval mode.

    `engine` makes it fast for frames of `size` (height, width): "auto" measures once on this machine and stores what it
    chose, an `EngineConfiguration` (or its dict) is taken as it is, None leaves it plain in float32. See
    `streamtok.checkpoint.load` and `streamtok.engine.optimize` for what they raise.
    """
    from streamtok import checkpoint

    tokenizer = checkpoint.load(name, deterministic)
    if engine is None:
        return tokenizer.to(pick_device(device)) if device else tokenizer
    if deterministic:
        raise ValueError(f"deterministic=True runs one slot and one group at a time, plainly; drop engine={engine!r}")
    from streamtok.engine import optimize

    return optimize(tokenizer, engine, size=size, device=device)


def load_tokenizer(settings: "RigSettings", size: tuple[int, int] | None = None, slots_per_step: int = 1) -> Any:
    """The model of a rig on its device, made fast for frames of `size` (H, W) where the settings or a GPU ask for it,
    and for streams that step so many slots at once.

    `engine` None is "auto" on a GPU and what `place` does on a CPU; deterministic mode is always eager.
    """
    import torch

    tokenizer = load(settings.model, deterministic=settings.deterministic)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    device = pick_device(settings.device).type
    engine = read_engine(settings.engine or "auto")
    if settings.deterministic or engine == "eager":
        return tokenizer.to(device)
    if settings.engine is None and device == "cpu":
        return place(tokenizer, device)
    from streamtok.engine.engine import apply
    from streamtok.engine.tuning import optimize

    step = tokenizer.config.spatial_compression
    height, width = size or (256, 448)
    fast = optimize(tokenizer, engine, size=(-(-height // step) * step, -(-width // step) * step), device=device)
    # what the rig asks for holds over what was stored or is in a file
    wanted = fast.engine
    if settings.threads is not None and device == "cpu":
        wanted = replace(wanted, threads=settings.threads)
    if slots_per_step != 1:
        wanted = replace(wanted, slots_per_step=slots_per_step)
    return fast if wanted == fast.engine else apply(fast, wanted)


def place(tokenizer: "Tokenizer", device: str | None = None) -> "Tokenizer":
    """A tokenizer on its device as commands run it unless told otherwise: float32, nothing measured, nothing stored.

    On a CPU that is on our own layers where they fit the model (`engine.cpu`): the latents of PyTorch's layers within
    rounding, in less time. Deterministic tokenizers stay plain.
    """
    chosen = pick_device(device)
    if chosen.type != "cpu" or tokenizer.deterministic:
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


def read_engine(choice: str) -> str | dict[str, Any]:
    """What `--engine` names: "auto", "eager", or the configuration in a JSON file; ValueError for anything else."""
    if choice in ("auto", "eager"):
        return choice
    try:
        return json.loads(Path(choice).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"engine {choice!r}: expected auto, eager or auto's JSON file: {error}") from error


def engine_configuration(tokenizer: Any) -> dict:
    """What was chosen by measurement or by flag and decides the last bits of a latent: published and recorded."""
    import torch

    if hasattr(tokenizer, "engine"):
        return tokenizer.engine.to_dict()
    parameter = next(tokenizer.parameters())
    return {
        "device": torch.cuda.get_device_name() if parameter.is_cuda else "cpu",
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "deterministic": bool(tokenizer.deterministic),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }
