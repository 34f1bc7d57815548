"""Reads and writes our checkpoints: a folder with configuration, weights and their fingerprint."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from streamtok.config import TokenizerConfig
from streamtok.model import Tokenizer, build
from streamtok.model.fingerprint import HALVES

FORMAT = 1  # of config.json
MOST_BYTES = 1 << 20  # of a config.json
MOST_UNFILLED = 1 << 28  # parameters allowed beyond 8 per byte of the weights, for checkpoints of one half
MOST_BLOCKS = 64  # per level
MOST_LEVELS = 16
MOST_CODEBOOK_BITS = 24
MOST_QUANTIZERS = 64
QUANTIZER = "quantizer."
FINGERPRINT = re.compile("[0-9a-f]{32}")


def check_fit(what: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """ValueError that begins with `what` and lists the names of tensors that `found` lacks, adds or has otherwise.

    Names are in the model's order; unexpected ones, for which it has none, are sorted.
    """
    differing = [
        f"{name} {tuple(found[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    missing = [name for name in expected if name not in found]
    unexpected = sorted(found.keys() - expected.keys())
    problems = [
        f"{len(names)} {kind}: {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", differing))
        if names
    ]
    if problems:
        raise ValueError(f"{what}; " + "; ".join(problems))


def save(
    model: Tokenizer, folder: str | Path, dtype: torch.dtype | None = None, tokens_of: Tokenizer | None = None
) -> None:
    """Write config.json and model.safetensors; weights are cast to `dtype` first (float16, for example).

    The fingerprint is that of the stored weights, or of `tokens_of` if they make the same tokens. ValueError for half a
    model, or for weights that make other tokens than `tokens_of`.
    """
    for half in HALVES:
        model.check_has(half)
    folder = Path(folder)
    weights = model.state_dict().items()
    rounded = {name: tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor for name, tensor in weights}
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in rounded.items()}
    copy = build(model.config)
    copy.load_state_dict(stored)  # in float32, as `read_folder` loads them
    copy.known_as = model.known_as
    if tokens_of is not None:
        copy.keep_fingerprint(tokens_of)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(to_safetensors(stored))  # `save_file` lets only its owner read it
    values = {"format": FORMAT, "fingerprint": copy.fingerprint, "weights": copy.weights_digest}
    values |= {"tokenizer": model.config.to_dict()}
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")


def read_folder(folder: str | Path, deterministic: bool = False) -> Tokenizer:
    """Read what `save` wrote, as float32. ValueError if files do not fit each other or the weights were altered."""
    folder = Path(folder)
    values, config, outline = _read_config(folder / "config.json")
    stored, what = read_tensors(folder / "model.safetensors"), f"{folder} does not fit its config.json"
    check_fit(what, outline, {name: tensor for name, tensor in stored.items() if not name.startswith(QUANTIZER)})
    model = build(config, deterministic)
    fresh = model.state_dict()
    check_fit(what, fresh, stored)
    model.load_state_dict({name: tensor.to(fresh[name].dtype) for name, tensor in stored.items()})
    _identify(folder, values, model)
    return model


def _identify(folder: Path, values: dict, model: Tokenizer) -> None:
    """Check the weights against the digest in config.json, and give the model the fingerprint stored there."""
    digest = model.weights_digest
    fingerprint = values.get("fingerprint") or digest
    expected = values.get("weights") or fingerprint
    if expected != digest:
        raise ValueError(
            f"{folder}: the weights' fingerprint is {digest}, config.json says {expected}; "
            "one of the files was altered or belongs to another model"
        )
    if fingerprint != digest and (model.config.closed_loop or not FINGERPRINT.fullmatch(str(fingerprint))):
        raise ValueError(
            f"{folder}: config.json says the fingerprint {fingerprint!r} for other weights; expected 32 hex digits, "
            "and a tokenizer without a decoder in its loop"
        )
    model.known_as = {digest: fingerprint}


def build_for(weights: Mapping[str, Tensor], config: TokenizerConfig, what: str, deterministic: bool) -> Tokenizer:
    """A fresh tokenizer for weights whose names and shapes are checked later.

    ValueError, beginning with `what`, if the weights are far too few for it; this is checked before memory is taken.
    """
    needed = sum(tensor.numel() for tensor in _outline(config, what).values())
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in weights.values()}
    held = sum(storages.values())  # views of one storage count once, as a file holds it once
    if needed > 8 * held + MOST_UNFILLED:
        raise ValueError(f"{what}: it would have {needed} values, and its weights are {held} bytes")
    return build(config, deterministic)


def _outline(config: TokenizerConfig, what: str | Path) -> dict[str, Tensor]:
    """The names and shapes of a tokenizer's state, on the meta device, without the quantizer's.

    ValueError, beginning with `what`, for impossible sizes.
    """
    try:
        _check_extent(config)
        with torch.device("meta"):
            looked_up = config.discrete and config.quantizer != "fsq"  # in codebooks of another package
            state = build(replace(config, quantizer="ae") if looked_up else config).state_dict()
    except Exception as error:  # PyTorch and Python raise many kinds for impossible sizes
        raise ValueError(f"{what}: {explain(error)}") from error
    return {name: tensor for name, tensor in state.items() if not name.startswith(QUANTIZER)}


def explain(error: Exception) -> str:
    """The message of an error, on one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; ValueError if it is truncated or of another format, FileNotFoundError if it
    is missing."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, or no file; expected safetensors")
    try:
        return load_file(path)
    except (SafetensorError, ValueError, RuntimeError, KeyError, MemoryError) as error:
        raise ValueError(f"{path} is cut off, or no safetensors file: {' '.join(str(error).split())}") from error


def _read_config(path: Path) -> tuple[dict, TokenizerConfig, dict[str, Tensor]]:
    """The values of a config.json, its configuration and `_outline`. ValueError or FileNotFoundError names the file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, or no file; expected a checkpoint folder, as training writes it")
    values = read_json(path)
    try:
        if values.get("format", FORMAT) != FORMAT:
            raise ValueError(f"its format is {values['format']!r}, expected {FORMAT}; a later streamtok may read it")
        config = TokenizerConfig.from_dict(values["tokenizer"])
    except Exception as error:  # Python raises many kinds for values of wrong types
        raise ValueError(f"{path} is not a tokenizer configuration: {explain(error)}") from error
    return values, config, _outline(config, f"{path} is not a tokenizer configuration")


def read_json(path: Path, what: str = "a tokenizer configuration") -> dict[str, Any]:
    """The object in a small JSON file; ValueError names the file and `what` it should be, OSError if unreadable."""
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES} bytes")
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"it holds a {type(values).__name__}, expected an object")
        return values
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not {what}: {explain(error)}") from error


def _check_extent(config: TokenizerConfig) -> None:
    """ValueError for a tokenizer with implausibly many levels, blocks, quantizers or codes."""
    for blocks in (config.encoder_blocks, config.decoder_blocks):
        if len(blocks) > MOST_LEVELS or max(blocks) > MOST_BLOCKS:
            raise ValueError(f"expected at most {MOST_LEVELS} levels of {MOST_BLOCKS} blocks, found {blocks}")
    if config.discrete and not 1 <= config.num_quantizers <= MOST_QUANTIZERS:
        raise ValueError(f"expected 1 to {MOST_QUANTIZERS} quantizers, found {config.num_quantizers}")
    if not 1 <= (config.codebook_size or 1) <= 1 << MOST_CODEBOOK_BITS:
        raise ValueError(f"expected a codebook of at most 2**{MOST_CODEBOOK_BITS} values")
