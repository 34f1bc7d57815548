"""Our checkpoints: a folder with the configuration, the weights and their fingerprint."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from streamtok.config import TokenizerConfig
from streamtok.model import Tokenizer, build


def check_fit(what: str, missing: list[str], unexpected: list[str], differing: list[str]) -> None:
    """ValueError that says `what` does not fit and lists the names of tensors that are the reason, if there are any."""
    problems = [
        f"{len(names)} {kind}: {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", differing))
        if names
    ]
    if problems:
        raise ValueError(f"{what}; " + "; ".join(problems))


def save(model: Tokenizer, folder: str | Path, dtype: torch.dtype | None = None, **extra: object) -> None:
    """Write config.json and model.safetensors; `dtype` rounds the weights first (to float16, say).

    The fingerprint is that of the weights as stored. `extra` values go to config.json beside it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = model.state_dict().items()
    stored = {name: tensor.detach().to("cpu", dtype or tensor.dtype).contiguous() for name, tensor in weights}
    copy = build(model.config)
    copy.load_state_dict({name: tensor.float() for name, tensor in stored.items()})
    save_file(stored, folder / "model.safetensors")
    values = {"format": 1, "fingerprint": copy.fingerprint, "tokenizer": model.config.to_dict(), **extra}
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")


def read_folder(folder: str | Path, deterministic: bool = False) -> Tokenizer:
    """Read what `save` wrote, as float32. ValueError if files do not fit each other or the weights were altered."""
    folder = Path(folder)
    try:
        values = json.loads((folder / "config.json").read_text())
        config = TokenizerConfig.from_dict(values["tokenizer"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'config.json'} is not a tokenizer configuration: {error}") from error
    model = build(config, deterministic)
    fresh, stored = model.state_dict(), load_file(folder / "model.safetensors")
    differing = [
        f"{name} {tuple(stored[name].shape)}, expected {tuple(fresh[name].shape)}"
        for name in sorted(set(fresh) & set(stored))
        if fresh[name].shape != stored[name].shape
    ]
    missing, unexpected = sorted(set(fresh) - set(stored)), sorted(set(stored) - set(fresh))
    check_fit(f"{folder} does not fit its config.json", missing, unexpected, differing)
    model.load_state_dict({name: tensor.to(fresh[name].dtype) for name, tensor in stored.items()})
    if values.get("fingerprint") not in (None, model.fingerprint):
        raise ValueError(
            f"{folder}: the weights' fingerprint is {model.fingerprint}, config.json says {values['fingerprint']}; "
            "one of the files was altered or belongs to another model"
        )
    return model
