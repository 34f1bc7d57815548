"""Reads and writes folders of diffusers' `AutoencoderKLCosmos`: continuous video tokenizers under other names."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from streamtok.checkpoint.cosmos import load_published, published_names, to_published
from streamtok.checkpoint.folder import build_for, read_json
from streamtok.checkpoint.published_files import read_weights
from streamtok.config import TokenizerConfig
from streamtok.model import Tokenizer

CLASS = "AutoencoderKLCosmos"
WEIGHTS = "diffusion_pytorch_model"
RESOLUTION = 1024  # of frames in pixels, by which diffusers' config gives the levels with attention
SUFFIXES = (".safetensors", ".safetensors.index.json", ".fp16.safetensors", ".bf16.safetensors", ".bin")
# From published names without ".conv3d" to diffusers', applied in this order.
_RENAMES = (
    (r"\.block\.(\d)", r".resnets.\1"),
    (r"mid\.block_1", "mid_block.resnets.0"),
    (r"mid\.block_2", "mid_block.resnets.1"),
    (r"mid\.attn_1\.0", "mid_block.attentions.0"),
    (r"mid\.attn_1\.1", "mid_block.temp_attentions.0"),
    (r"\.attn\.(\d)\.0", r".attentions.\1"),
    (r"\.attn\.(\d)\.1", r".temp_attentions.\1"),
    (r"(conv_in|conv_out|conv1|conv2)\.0\.", r"\1.conv_s."),
    (r"(conv_in|conv_out|conv1|conv2)\.1\.", r"\1.conv_t."),
    (r"\.([qkv])\.", r".to_\1."),
    (r"\.proj_out\.", ".to_out.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.(down|up)sample\.", r".\1samplers.0."),
    (r"^encoder\.down\.", "encoder.down_blocks."),
)


def find_diffusers(path: Path) -> Path | None:
    """The autoencoder's folder if `path` is a folder of diffusers, of an autoencoder or a pipeline; else None.

    ValueError for an autoencoder of another class.
    """
    folder = path / "vae" if (path / "model_index.json").is_file() else path
    if not (folder / "config.json").is_file():
        return None
    try:
        found = read_json(folder / "config.json").get("_class_name")
    except ValueError:
        return None  # other readers of the folder report it
    if found not in (None, CLASS):
        raise ValueError(f"{folder / 'config.json'} is of a {found}, expected {CLASS} (a Cosmos tokenizer)")
    return folder if found else None


@torch.inference_mode(False)
def from_diffusers(folder: str | Path, deterministic: bool = False) -> Tokenizer:
    """A continuous video tokenizer from a folder that diffusers' `AutoencoderKLCosmos.save_pretrained` wrote.

    `latents_mean` and `latents_std` are for `encode(..., normalize=True)`. ValueError names the file that does not fit.
    """
    folder = Path(folder)
    config = _read_config(folder / "config.json")
    stored, what = _read_weights(folder), f"{folder} does not fit its config.json"
    model = build_for(stored, config, what, deterministic)
    published = {name: ours for ours, name in _names(model).items()}
    load_published(model, {published.get(name, name): tensor for name, tensor in stored.items()}, what)
    return model


def save_diffusers(model: Tokenizer, folder: str | Path) -> None:
    """Write a folder that `AutoencoderKLCosmos.from_pretrained` of diffusers reads.

    ValueError says what of the model that class does not support.
    """
    folder, values = Path(folder), _to_values(model)
    names = _names(model)
    stored = {names[name]: tensor.detach().to("cpu").contiguous() for name, tensor in to_published(model).items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{WEIGHTS}.safetensors").write_bytes(to_safetensors(stored, metadata={"format": "pt"}))
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")


def _names(model: Tokenizer) -> dict[str, str]:
    """A dict of published names -> diffusers', which counts the decoder's levels from the coarsest."""
    last, names = len(model.config.decoder_channels) - 1, {}
    for published in published_names(model).values():
        name = published.replace(".conv3d.", ".")
        name = re.sub(r"^decoder\.up\.(\d+)", lambda match: f"decoder.up_blocks.{last - int(match[1])}", name)
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        names[published] = name
    return names


def _read_config(path: Path) -> TokenizerConfig:
    values = read_json(path)
    if values.get("patch_type", "haar") != "haar":
        raise ValueError(f"{path}: patch_type is {values['patch_type']!r}, expected 'haar'")
    try:
        return _from_values(values)
    except (KeyError, TypeError, ValueError, ArithmeticError, MemoryError) as error:
        raise ValueError(f"{path} is not the configuration of a Cosmos tokenizer: {error!r}") from error


def _from_values(values: Mapping[str, Any]) -> TokenizerConfig:
    encoder, decoder = (tuple(values[f"{part}_block_out_channels"]) for part in ("encoder", "decode"))
    space, time = values["spatial_compression_ratio"], values["temporal_compression_ratio"]
    patch, blocks = values["patch_size"], values["num_layers"]
    sides = [values["resolution"] // patch // 2**level for level in range(len(encoder) - 1)]
    if len(set(decoder[-2:])) > 1:
        raise ValueError(f"decode_block_out_channels is {decoder}, expected the last of them twice")
    return TokenizerConfig(
        name=f"cosmos-cv{time}x{space}x{space}" + "-360p" * (patch == 2),
        spatial_compression=space,
        temporal_compression=time,
        patch_size=patch,
        in_channels=values.get("in_channels", 3),
        stem_channels=encoder[0],
        encoder_channels=encoder[1:],
        decoder_channels=decoder[:-1],
        encoder_blocks=(blocks,) * (len(encoder) - 1),
        decoder_blocks=(blocks + 1,) * (len(decoder) - 1),
        attention_levels=tuple(i for i, side in enumerate(sides) if side in values["attention_resolutions"]),
        z_channels=values["latent_channels"],
        latent_channels=values["latent_channels"],
        quantizer="ae",
        latents_mean=tuple(values.get("latents_mean") or ()),
        latents_std=tuple(values.get("latents_std") or ()),
    )


def _to_values(model: Tokenizer) -> dict[str, Any]:
    """The config.json of a model; ValueError names the settings that diffusers' class does not support."""
    config = model.config
    if not config.video:
        raise ValueError(f"{CLASS} of diffusers has no {config.name!r}: it is of videos")
    values = {
        "_class_name": CLASS,
        "in_channels": config.in_channels,
        "out_channels": config.in_channels,
        "latent_channels": config.latent_channels,
        "encoder_block_out_channels": [config.stem_channels, *config.encoder_channels],
        "decode_block_out_channels": [*config.decoder_channels, config.decoder_channels[-1]],
        "attention_resolutions": [RESOLUTION // config.patch_size // 2**i for i in config.attention_levels] or [32],
        "resolution": RESOLUTION,
        "num_layers": config.encoder_blocks[0],
        "patch_size": config.patch_size,
        "patch_type": "haar",
        "scaling_factor": 1.0,
        "spatial_compression_ratio": config.spatial_compression,
        "temporal_compression_ratio": config.temporal_compression,
        "latents_mean": list(config.latents_mean) or None,
        "latents_std": list(config.latents_std) or None,
    }
    same = replace(_from_values(values), name=config.name, context=config.context, dropout=config.dropout)
    theirs, ours = same.to_dict(), config.to_dict()
    differing = [f"{name} {ours[name]!r} (there {theirs[name]!r})" for name in ours if ours[name] != theirs.get(name)]
    if differing:
        raise ValueError(f"{CLASS} of diffusers has no {config.name!r}: {', '.join(differing)}")
    return values


def _read_weights(folder: Path) -> dict[str, Tensor]:
    file = next((file for suffix in SUFFIXES if (file := folder / f"{WEIGHTS}{suffix}").is_file()), None)
    if file is None:
        raise FileNotFoundError(f"{folder} holds no weights: expected {WEIGHTS}.safetensors beside its config.json")
    if file.suffix != ".json":
        return read_weights(file)
    shards = set(read_json(file, "an index of weights").get("weight_map", {}).values())
    strange = [name for name in shards if not isinstance(name, str) or Path(name).name != name]
    if strange or not shards:
        raise ValueError(f"{file}: its weight_map names {strange or 'no file'}, expected files beside it")
    return {name: tensor for shard in sorted(shards) for name, tensor in read_weights(folder / shard).items()}
