"""Loads a tokenizer by name: a preset, one of our folders, or a published checkpoint."""

import difflib
import sys
import warnings
from pathlib import Path

import torch

from streamtok.checkpoint.cosmos import from_cosmos
from streamtok.checkpoint.diffusers import find_diffusers, from_diffusers
from streamtok.checkpoint.folder import read_folder
from streamtok.checkpoint.hub import REPOSITORY, fetch_checkpoint
from streamtok.checkpoint.published_files import PUBLISHED_FILES
from streamtok.checkpoint.variants import find_variant
from streamtok.config import PRESETS
from streamtok.model import Tokenizer, build

WEIGHTS = Path(__file__).parents[1] / "weights"


@torch.inference_mode(False)
def load_checkpoint(name: str | Path, deterministic: bool = False) -> Tokenizer:
    """Load a tokenizer in eval mode: a preset, our folder, a published Cosmos checkpoint, diffusers' folder, or
    org/name of the Hugging Face Hub.

    A preset whose weights ship has them. Others have seeded random weights (with a warning), so that their speed and
    size can be tried. ValueError for an unknown name suggests the nearest ones.
    """
    path = Path(name)
    if str(name) in PRESETS:
        return _load_preset(str(name), deterministic)
    if folder := find_diffusers(path):
        return from_diffusers(folder, deterministic)
    if (path / "config.json").is_file() and _is_ours(path):
        return read_folder(path, deterministic)
    if path.exists():
        return from_cosmos(path, deterministic=deterministic)
    if REPOSITORY.fullmatch(str(name)):
        return load_checkpoint(fetch_checkpoint(str(name)), deterministic)
    near, hint = difflib.get_close_matches(str(name), PRESETS, n=3), ""
    if variant := find_variant(str(name)):
        near = [variant]
        hint = f"a published checkpoint is nvidia/{path.name} on the hub, or the folder that it was downloaded to; "
    raise ValueError(
        f"no preset and no checkpoint folder is called {str(name)!r}; {hint}"
        + (f"did you mean {', '.join(near)}? " if near else "")
        + f"presets: {', '.join(PRESETS)}"
    )


def _is_ours(folder: Path) -> bool:
    """Whether a folder with a config.json is ours; published checkpoints may have a config.json too."""
    theirs = any((folder / name).is_file() for name in PUBLISHED_FILES) or any(folder.glob("iter_*"))
    return (folder / "model.safetensors").is_file() or not theirs


def _find_callers_level() -> int:
    """The `stacklevel` that makes a warning point to the code that called into this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in ("streamtok", "torch"):
        level, frame = level + 1, frame.f_back
    return level


def _load_preset(name: str, deterministic: bool) -> Tokenizer:
    if (WEIGHTS / name / "config.json").is_file():
        return read_folder(WEIGHTS / name, deterministic)
    warnings.warn(
        f"no weights ship for {name!r}: it starts from random ones (seed 0), good for speed and size only",
        stacklevel=_find_callers_level(),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(PRESETS[name], deterministic)
