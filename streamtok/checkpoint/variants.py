"""Infers the configuration of published weights, from the name of their folder and the shapes of their tensors."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Size, Tensor

from streamtok.config import PRESETS, TokenizerConfig

_NAMED = re.compile(r"([cd][iv])[-_]?((?:\d+x)?\d+x\d+)(-360p)?")
Shapes = Mapping[str, Size]  # by published name without ".conv3d", so that video and image models have the same names


def find_variant(path: str) -> str | None:
    """The preset of the published variant that a path names, or None. The last name in it counts: the folder's own."""
    named = [f"cosmos-{kind}{sizes}" + (lines or "") for kind, sizes, lines in _NAMED.findall(path.lower())]
    known = [name for name in named if name in PRESETS]
    return known[-1] if known else None


def infer_config(weights: Mapping[str, Tensor], config: Mapping | TokenizerConfig | None, hint: str) -> TokenizerConfig:
    """The configuration of published weights: the given one, or that named by `hint`, a path, with sizes from shapes.

    ValueError if neither tells the variant, or if name and weights are of different kinds.
    """
    if config is None:
        config = _guess_config(weights, hint)
    elif not isinstance(config, TokenizerConfig):
        config = TokenizerConfig.from_published(config)
    shapes = {name.replace(".conv3d", ""): tensor.shape for name, tensor in weights.items()}
    _check_kind(weights, _latent_channels(shapes, config), config, hint)
    return replace(config, **_read_sizes(shapes, config))


def _guess_config(weights: Mapping[str, Tensor], hint: str) -> TokenizerConfig:
    """The preset that a path names; ValueError otherwise, since 4x8x8 and 8x8x8 differ in no shape."""
    if variant := find_variant(hint):
        return PRESETS[variant]
    raise ValueError(
        f"cannot tell which variant {hint or 'these weights'} is: compressions with the same layers have the same "
        f"shapes. Pass config=, or keep the published folder name, such as Cosmos-Tokenizer-DV4x8x8; "
        f"known: {', '.join(name for name in PRESETS if name.startswith('cosmos-'))}; found {len(weights)} tensors"
    )


def _check_kind(weights: Mapping[str, Tensor], channels: int | None, config: TokenizerConfig, hint: str) -> None:
    """ValueError unless weights and configuration agree in video or image, and in the number of latent channels."""
    if not any(name.startswith(("encoder.", "decoder.")) for name in weights):
        return  # no tokenizer at all: loading reports the missing names
    video = any(".conv3d." in name for name in weights)
    fitting = channels in (None, config.latent_channels)
    if video == config.video and fitting:
        return
    expected = f"{'discrete' if config.discrete else 'continuous'} {'video' if config.video else 'image'}"
    found = f"{'a video' if video else 'an image'} model" + ("" if fitting else f" of {channels} latent channels")
    raise ValueError(
        f"{hint or 'these weights'}: {config.name!r} is a {expected} tokenizer of {config.latent_channels} latent "
        f"channels, the weights are those of {found}; rename the folder as it was published, or pass the right config="
    )


def _latent_channels(shapes: Shapes, config: TokenizerConfig) -> int | None:
    """The channels of the latent, by the weights of either half; None if both convolutions are missing."""
    into, out = shapes.get("post_quant_conv.weight"), shapes.get("quant_conv.weight")
    if into is not None:
        return into[1]
    return None if out is None else out[0] // (2 if config.quantizer == "vae" else 1)


def _read_sizes(shapes: Shapes, config: TokenizerConfig) -> dict[str, Any]:
    """The fields of a configuration that follow from the shapes of tensors."""
    facts = _read_first_layer(shapes, config)
    into, out = shapes.get("post_quant_conv.weight"), shapes.get("quant_conv.weight")
    if into is not None:
        facts["z_channels"] = into[0]
        if out is not None and out[1] % into[0] == 0:
            facts["z_factor"] = out[1] // into[0]
    elif out is not None:
        facts["z_channels"] = out[1] // config.z_factor
    for part, prefix in (("encoder", r"encoder\.down"), ("decoder", r"decoder\.up")):
        pattern = prefix + r"\.(\d+)\.block\.(\d+)\.conv2(\.1)?\.weight"
        found = [(re.fullmatch(pattern, name), shape) for name, shape in shapes.items()]
        dims = {(int(m[1]), int(m[2])): shape[0] for m, shape in found if m}
        levels = sorted({level for level, _ in dims})
        if levels and levels == list(range(len(levels))):
            facts[f"{part}_channels"] = tuple(dims[level, 0] for level in levels)
            facts[f"{part}_blocks"] = tuple(sum(1 for at, _ in dims if at == level) for level in levels)
    return facts | _mirror_sizes(facts, config)


def _read_first_layer(shapes: Shapes, config: TokenizerConfig) -> dict[str, Any]:
    """Stem channels and patch size, by the first convolution, or by the last one if there is only a decoder."""
    first = shapes.get("encoder.conv_in.0.weight" if config.video else "encoder.conv_in.weight")
    last = shapes.get("decoder.conv_out.1.weight" if config.video else "decoder.conv_out.weight")
    facts: dict[str, Any] = {} if first is None else {"stem_channels": first[0]}
    bands = first[1] if first is not None else last[0] if last is not None else 0
    patches = {config.in_channels * patch ** (3 if config.video else 2): patch for patch in (2, 4)}
    return facts | ({"patch_size": patches[bands]} if bands in patches else {})


def _mirror_sizes(facts: dict[str, Any], config: TokenizerConfig) -> dict[str, Any]:
    """Sizes of a missing half, taken from the other half if the patch size differs from the named variant's."""
    mirrored: dict[str, Any] = {}
    if facts.get("patch_size", config.patch_size) == config.patch_size:
        return mirrored
    for there, absent, more in (("encoder", "decoder", 1), ("decoder", "encoder", -1)):
        if f"{absent}_channels" not in facts and f"{there}_channels" in facts:
            mirrored[f"{absent}_channels"] = facts[f"{there}_channels"]
            mirrored[f"{absent}_blocks"] = tuple(max(1, n + more) for n in facts[f"{there}_blocks"])
    return mirrored
