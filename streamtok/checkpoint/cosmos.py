"""Checkpoints as NVIDIA publishes them.

They are TorchScript archives (`encoder.jit` and `decoder.jit`, or `autoencoder.jit`), a `model.pt`, or a mapping of
names to tensors. Nothing here runs code of a file: archives go through `read_archive`, the rest through `weights_only`.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from streamtok.checkpoint.folder import check_fit, read_tensors
from streamtok.checkpoint.torchscript import is_archive, read_archive
from streamtok.config import PRESETS, TokenizerConfig
from streamtok.model import Tokenizer, build
from streamtok.model.layers import Norm, TemporalConv

# Parameters of resampling modules that published models hold but never run, and buffers that tracing adds.
_UNUSED = re.compile(r"(encoder\.down|decoder\.up)\.\d+\.(downsample|upsample)\.conv[123]\.conv3d\.(weight|bias)$")
_BUFFER = re.compile(
    r"((encoder|decoder)\.)?(un)?patcher(3d)?\.(wavelets|_arange|patch_size_buffer)$"
    r"|(inv_quant\.)?quantizer\.(_levels|_basis|implicit_codebook)$"
)
_NAMED = re.compile(r"([cd][iv])[-_]?((?:\d+x)?\d+x\d+)")
PUBLISHED_FILES = ("encoder.jit", "decoder.jit", "autoencoder.jit", "model.pt")


def published_names(model: Tokenizer) -> dict[str, str]:
    """Our parameter names -> those of the published checkpoints, for a model of the Cosmos family."""
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
    """Published (D, C, kt, kh, kw) to ours; unchanged where it does not fit, so that the mismatch is reported."""
    if tensor.ndim == 5 and ours.ndim == 3 and tensor.shape[2:] == (3, 1, 1):
        return tensor[..., 0, 0].permute(2, 0, 1)
    if tensor.ndim == 5 and ours.ndim == 4 and tensor.shape[2] == 1:
        return tensor[:, :, 0]
    return tensor


@torch.inference_mode(False)
def from_cosmos(
    source: Mapping[str, Tensor] | str | Path,
    config: Mapping | TokenizerConfig | None = None,
    deterministic: bool = False,
) -> Tokenizer:
    """A tokenizer from a published Cosmos checkpoint.

    `source`: a mapping of published names to tensors, a folder with `encoder.jit` and `decoder.jit` (or
    `autoencoder.jit` or `model.pt`), or one of those files. `config`: the published keyword dictionary, a
    `TokenizerConfig`, or None to find it: the variant by the folder's name, its sizes by the shapes. Raises ValueError
    that lists missing, unexpected and differing names.
    """
    weights = dict(source) if isinstance(source, Mapping) else read_published(Path(source))
    hint = "" if isinstance(source, Mapping) else str(source)
    config = infer_config(weights, config, hint)
    model = build(config, deterministic)
    _load_published(model, weights)
    return model


def read_published(path: Path) -> dict[str, Tensor]:
    """The tensors of a published checkpoint, by published name."""
    files = [path]
    if path.is_dir():
        pair = [path / "encoder.jit", path / "decoder.jit"]
        choices = [pair, [path / "autoencoder.jit"], [path / "model.pt"]]
        files = next((choice for choice in choices if all(file.is_file() for file in choice)), [])
        if not files:
            raise FileNotFoundError(
                f"{path} holds no checkpoint: expected config.json and model.safetensors (ours), or encoder.jit and "
                "decoder.jit, autoencoder.jit, or model.pt (published)"
            )
    elif path.name in ("encoder.jit", "decoder.jit"):
        files = [path.with_name("encoder.jit"), path.with_name("decoder.jit")]
    weights: dict[str, Tensor] = {}
    for file in files:
        weights |= _read_file(file)
    return weights


def _read_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    if path.suffix == ".safetensors":
        return read_tensors(path)
    if is_archive(path):
        return read_archive(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} is neither a TorchScript archive nor a file of plain tensors ({str(error).splitlines()[0]})"
        ) from error
    for key in ("model", "state_dict"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    tensors = {name: value for name, value in loaded.items() if isinstance(value, Tensor)}
    return {name.removeprefix("_orig_mod.").removeprefix("network."): value for name, value in tensors.items()}


def infer_config(weights: Mapping[str, Tensor], config: Mapping | TokenizerConfig | None, hint: str) -> TokenizerConfig:
    """The configuration of published weights: what is given, corrected by what the weights' shapes tell."""
    if config is None:
        config = _guess_config(weights, hint)
    elif not isinstance(config, TokenizerConfig):
        config = TokenizerConfig.from_published(config)
    return replace(config, **_read_sizes(weights, config))


def _guess_config(weights: Mapping[str, Tensor], hint: str) -> TokenizerConfig:
    """The preset that a path names; ValueError otherwise, since 4x8x8 and 8x8x8 differ in no shape."""
    if variant := find_variant(hint):
        return PRESETS[variant]
    raise ValueError(
        f"cannot tell which variant {hint or 'these weights'} is: compressions with the same layers have the same "
        f"shapes. Pass config=, or keep the published folder name, such as Cosmos-Tokenizer-DV4x8x8; "
        f"known: {', '.join(name for name in PRESETS if name.startswith('cosmos-'))}; found {len(weights)} tensors"
    )


def find_variant(path: str) -> str | None:
    """The preset of the published variant that a path names; what is named last counts, for it is the folder itself."""
    named = [f"cosmos-{kind}{sizes}" for kind, sizes in _NAMED.findall(path.lower())]
    known = [name for name in named if name in PRESETS]
    return known[-1] if known else None


def _read_sizes(weights: Mapping[str, Tensor], config: TokenizerConfig) -> dict:
    """The sizes of a configuration that follow directly from shapes of tensors."""
    infix = ".conv3d" if config.video else ""
    facts: dict[str, Any] = {}
    first = weights.get("encoder.conv_in.0.conv3d.weight" if config.video else "encoder.conv_in.weight")
    if first is not None:
        facts["stem_channels"] = first.shape[0]
        patch = round((first.shape[1] / 3) ** (1 / (3 if config.video else 2)))
        if 3 * patch ** (3 if config.video else 2) == first.shape[1]:
            facts["patch_size"] = patch
    into = weights.get(f"post_quant_conv{infix}.weight")
    if into is not None:
        facts |= {"z_channels": into.shape[0], "latent_channels": into.shape[1]}
        out = weights.get(f"quant_conv{infix}.weight")
        if out is not None and out.shape[1] % into.shape[0] == 0:
            facts["z_factor"] = out.shape[1] // into.shape[0]
    pattern = r"{}\.(\d+)\.block\.(\d+)\.conv2" + (r"\.1\.conv3d" if config.video else "") + r"\.weight"
    for part, prefix in (("encoder", r"encoder\.down"), ("decoder", r"decoder\.up")):
        found = [(re.fullmatch(pattern.format(prefix), name), tensor) for name, tensor in weights.items()]
        dims = {(int(m[1]), int(m[2])): tensor.shape[0] for m, tensor in found if m}
        levels = sorted({level for level, _ in dims})
        if levels and levels == list(range(len(levels))):
            facts[f"{part}_channels"] = tuple(dims[level, 0] for level in levels)
            facts[f"{part}_blocks"] = tuple(sum(1 for at, _ in dims if at == level) for level in levels)
    return facts


def _load_published(model: Tokenizer, weights: Mapping[str, Tensor]) -> None:
    names, fresh = published_names(model), model.state_dict()
    theirs = {theirs: ours for ours, theirs in names.items()}
    missing = sorted(set(theirs) - set(weights))
    unexpected = sorted(n for n in set(weights) - set(theirs) if not (_UNUSED.match(n) or _BUFFER.match(n)))
    found = {ours: _our_shape(weights[name], fresh[ours]) for name, ours in theirs.items() if name in weights}
    differing = [
        f"{names[ours]} {tuple(tensor.shape)}, expected {tuple(fresh[ours].shape)}"
        for ours, tensor in found.items()
        if tensor.shape != fresh[ours].shape
    ]
    check_fit(f"the checkpoint does not fit {model.config.name!r}", missing, unexpected, differing)
    model.load_state_dict(found | {name: fresh[name] for name in fresh if name not in names})
