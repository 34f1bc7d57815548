"""Loads checkpoints as NVIDIA publishes them: maps their names and shapes of parameters to ours, and back."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from streamtok.checkpoint.folder import build_for, check_fit
from streamtok.checkpoint.published_files import clean_names, read_files, read_published, read_statistics
from streamtok.checkpoint.variants import infer_config
from streamtok.config import TokenizerConfig
from streamtok.model import Tokenizer
from streamtok.model.fingerprint import HALVES
from streamtok.model.layers import Norm, TemporalConv

# Parameters of resampling modules that published models have but never use, and buffers that tracing adds.
_UNUSED = re.compile(r"(encoder\.down|decoder\.up)\.\d+\.(downsample|upsample)\.conv[123]\.conv3d\.(weight|bias)$")
_BUFFER = re.compile(
    r"((encoder|decoder)\.)?(un)?patcher(3d)?\.(wavelets|_arange|patch_size_buffer)$"
    r"|(inv_quant\.)?quantizer\.(_levels|_basis|implicit_codebook)$"
)


def published_names(model: Tokenizer) -> dict[str, str]:
    """A dict of our parameter names -> published names, for a model of the Cosmos family."""
    infix = {}
    for path, module in model.named_modules():
        if isinstance(module, Norm):
            infix[path] = ".norm" if model.config.video else ""
        elif isinstance(module, torch.nn.Conv2d | TemporalConv):
            infix[path] = ".conv3d" if model.config.video else ""
    names = {}
    for name, _ in model.named_parameters():
        path, kind = name.rsplit(".", 1)
        if path in infix:
            parts = [{"spatial": "0", "temporal": "1"}.get(part, part) for part in path.split(".")]
            names[name] = ".".join(parts) + f"{infix[path]}.{kind}"
    return names


def to_published(model: Tokenizer) -> dict[str, Tensor]:
    """The weights under the published names and in the published shapes."""
    tensors = model.state_dict()
    return {theirs: _their_shape(tensors[ours], model, ours) for ours, theirs in published_names(model).items()}


def _their_shape(tensor: Tensor, model: Tokenizer, name: str) -> Tensor:
    if not model.config.video or not name.endswith("weight") or tensor.ndim < 3:
        return tensor
    if tensor.ndim == 3:  # a temporal convolution, (3, D, C)
        return tensor.permute(1, 2, 0)[..., None, None].contiguous()
    return tensor[:, :, None].contiguous()


def _our_shape(tensor: Tensor, ours: Tensor) -> Tensor:
    """Published (D, C, kt, kh, kw) -> the shape of `ours`; unchanged if it does not fit, so that callers report it."""
    if tensor.ndim == 5 and ours.ndim == 3 and tensor.shape[2:] == (3, 1, 1):
        return tensor[..., 0, 0].permute(2, 0, 1)
    if tensor.ndim == 5 and ours.ndim == 4 and tensor.shape[2] == 1:
        return tensor[:, :, 0]
    return tensor


@torch.inference_mode(False)
def from_cosmos(
    source: Mapping[str, Tensor] | str | Path | Sequence[str | Path],
    config: Mapping | TokenizerConfig | None = None,
    deterministic: bool = False,
) -> Tokenizer:
    """A tokenizer from a published Cosmos checkpoint, or from one of cosmos-predict1's trainer.

    Args:
        source: a mapping of published names to tensors, a folder, one of its files, or a list of files to read. Files
            are `encoder.jit` and `decoder.jit` (one alone gives a tokenizer that only encodes, or only decodes),
            `autoencoder.jit`, `model.pt`, `iter_N_enc.jit` and `iter_N_dec.jit`, `iter_N.pt`. A moving average of the
            weights is preferred to them. A `mean_std.pt` beside them is for `encode(..., normalize=True)`.
        config: the published keyword dictionary, a `TokenizerConfig`, or None to infer it: the variant from the
            folder's name, its sizes from the shapes.

    Raises:
        ValueError: lists missing, unexpected and differing names, or says how name and weights disagree.
    """
    if isinstance(source, Mapping):
        weights, hint = clean_names(source), ""
        config = infer_config(weights, config, hint)
    else:
        files = [Path(source)] if isinstance(source, str | Path) else [Path(file) for file in source]
        hint = ", ".join(map(str, files))
        weights = read_published(files[0]) if isinstance(source, str | Path) else read_files(files)
        config = infer_config(weights, config, hint)
        mean, deviation = read_statistics(files[0], config)
        config = replace(config, latents_mean=mean, latents_std=deviation)
    what = f"{hint or 'the checkpoint'} does not fit {config.name!r}"
    model = build_for(weights, config, what, deterministic)
    load_published(model, weights, what)
    return model


def load_published(model: Tokenizer, weights: Mapping[str, Tensor], what: str) -> None:
    """Load tensors with published names into a model; if they lack its encoder or decoder, that is dropped.

    ValueError begins with `what`, and lists the names that do not fit.
    """
    parts = {name.partition(".")[0] for name in weights}
    held = [half for half, names in HALVES.items() if parts & set(names)]
    if len(held) == 1:
        model.drop("decoder" if held == ["encoder"] else "encoder")
    names, fresh = published_names(model), model.state_dict()
    wanted = {theirs: fresh[ours] for ours, theirs in names.items()}
    spare = {name for name in weights.keys() - wanted.keys() if _UNUSED.match(name) or _BUFFER.match(name)}
    read = {name: tensor for name, tensor in weights.items() if name not in spare}
    found = {name: _our_shape(tensor, wanted.get(name, tensor)) for name, tensor in read.items()}
    check_fit(what, wanted, found)
    model.load_state_dict(fresh | {ours: found[theirs] for ours, theirs in names.items()})
