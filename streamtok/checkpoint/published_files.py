"""Finds and reads the files of published checkpoints and of cosmos-predict1's trainer: tensors by published name.

No code of a file is run: archives are read by `read_archive`, other files with `weights_only`.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from streamtok.checkpoint.folder import read_tensors
from streamtok.checkpoint.torchscript import is_archive, read_archive
from streamtok.config import TokenizerConfig

PUBLISHED_FILES = ("encoder.jit", "decoder.jit", "autoencoder.jit", "model.pt", "ema.jit")
STATISTICS = {True: "mean_std.pt", False: "image_mean_std.pt"}  # of latents, beside a video or an image model
_TRAINED = re.compile(r"(iter_\d+)(?:_(enc|dec|ema|reg)\.jit|\.pt)")
_NETWORK, _AVERAGE = "network.", "ema."


def read_published(path: Path) -> dict[str, Tensor]:
    """The tensors of a published checkpoint, given as a folder or one of its files, by published name.

    A folder may have only an encoder or a decoder. Given the file of one, the other beside it is read too.
    """
    return read_files(_choose_files(path))


def read_files(files: Iterable[Path]) -> dict[str, Tensor]:
    """The tensors of all files of a model; ValueError for one that is neither an archive nor plain tensors."""
    return {name: tensor for file in files for name, tensor in read_weights(file).items()}


def _choose_files(path: Path) -> list[Path]:
    """The files of a folder to read, whole models preferred; FileNotFoundError lists what is supported."""
    if not path.is_dir():
        return _find_pair(path)
    runs = {match[1] for file in path.iterdir() if (match := _TRAINED.fullmatch(file.name))}
    last = max(runs, key=lambda run: int(run.removeprefix("iter_")), default="iter_0")
    pairs = [("encoder.jit", "decoder.jit"), ("autoencoder.jit",), ("ema.jit",), ("model.pt",)]
    pairs += [(f"{last}_enc.jit", f"{last}_dec.jit"), (f"{last}_ema.jit",), (f"{last}.pt",), (f"{last}_reg.jit",)]
    halves = [("encoder.jit",), (f"{last}_enc.jit",), ("decoder.jit",), (f"{last}_dec.jit",)]
    for names in pairs + halves:
        if all((path / name).is_file() for name in names):
            return [path / name for name in names]
    raise FileNotFoundError(
        f"{path} holds no checkpoint: expected config.json and model.safetensors (ours), encoder.jit and decoder.jit, "
        "autoencoder.jit or model.pt (published), iter_N_enc.jit and iter_N_dec.jit or iter_N.pt (cosmos-predict1's "
        "trainer), or config.json and diffusion_pytorch_model.safetensors (diffusers)"
    )


def _find_pair(path: Path) -> list[Path]:
    """A file, and the file of the other half of its model if that lies beside it under its usual name."""
    names = {"encoder.jit": "decoder.jit", "decoder.jit": "encoder.jit"}
    match = _TRAINED.fullmatch(path.name)
    if match and match[2] in ("enc", "dec"):
        names[path.name] = f"{match[1]}_{'dec' if match[2] == 'enc' else 'enc'}.jit"
    other = path.with_name(names.get(path.name, path.name))
    return [path] if other == path or not other.is_file() else [path, other]


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of one file; FileNotFoundError or a ValueError that names it."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    if path.suffix == ".safetensors":
        return clean_names(read_tensors(path))
    if is_archive(path):
        return read_archive(path)
    loaded = _load_plain(path)
    for key in ("model", "state_dict"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path} holds a {type(loaded).__name__}, expected a dictionary of names and tensors")
    return clean_names(loaded)


def _load_plain(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} is neither a TorchScript archive nor a file of plain tensors ({str(error).splitlines()[0]})"
        ) from error


def clean_names(loaded: Mapping[str, object]) -> dict[str, Tensor]:
    """Tensors by published name, without the prefixes that trainers and compilers add.

    If a trainer has kept a moving average of its weights (`ema.network-a-b` for `network.a.b`), it replaces them.
    """
    tensors = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
    kept = {name.removeprefix(_AVERAGE): value for name, value in tensors.items() if name.startswith(_AVERAGE)}
    averages = {_plain_name(name.replace("-", ".")): value for name, value in kept.items()}
    return {
        _plain_name(name): averages.get(_plain_name(name), value)
        for name, value in tensors.items()
        if not name.startswith((_AVERAGE, "loss."))
    }


def _plain_name(name: str) -> str:
    return name.removeprefix("_orig_mod.").removeprefix(_NETWORK).removeprefix("_orig_mod.")


def read_statistics(path: Path, config: TokenizerConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of continuous latents, (channels * steps) values each, from the file beside a
    checkpoint; two empty tuples if there is none.

    ValueError names a file that does not hold two tensors of (channels, steps) values.
    """
    file = (path if path.is_dir() else path.parent) / STATISTICS[config.video]
    if config.discrete or not file.is_file():
        return (), ()
    loaded, channels = _load_plain(file), config.latent_channels
    pair = list(loaded) if isinstance(loaded, tuple | list) else []
    if len(pair) != 2 or not all(isinstance(part, Tensor) and part.numel() for part in pair):
        raise ValueError(f"{file} holds a {type(loaded).__name__}, expected two tensors: mean and standard deviation")
    if pair[0].shape != pair[1].shape or pair[0].numel() % channels:
        shapes = " and ".join(str(tuple(part.shape)) for part in pair)
        raise ValueError(f"{file} holds tensors of {shapes}, expected two of ({channels}, steps) values")
    return tuple(pair[0].flatten().double().tolist()), tuple(pair[1].flatten().double().tolist())
