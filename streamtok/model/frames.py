"""Input checks of the public methods (frames, indices, latents), and the error for outputs that are not finite."""

import math

import torch
from torch import Tensor

from streamtok.config import TokenizerConfig

UNSIGNED = (torch.uint8, torch.uint16, torch.uint32, torch.uint64)
INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, *UNSIGNED)
LUMA = (77, 150, 29)  # weights of red, green and blue, in 256ths
VARIED = 0.25  # on the [-1, 1] scale: the least contrast between a picture's darkest and brightest pixel
FAR_OUTSIDE = 16  # on the [-1, 1] scale: more than overshoot or normal noise, less than any picture in 0..255


class NonFiniteError(ValueError):
    """An output held NaN or infinity. `slots` lists its slots, which did not advance, or a clip's batch rows; `out` has
    the other slots' output, or None."""

    def __init__(self, slots: list[int], out: object, kind: str = "slots"):
        more = "; then reset these slots, which did not advance" if kind == "slots" else ""
        super().__init__(
            f"the latent of {kind} {slots} is not finite (NaN or infinity), expected finite numbers: check "
            f"their frames for NaN{more}"
        )
        self.slots, self.out = slots, out


def to_float(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Frames (B, C, ...), uint8 or float in [-1, 1] -> in [-1, 1] scale, float32 or, for a float64 model, float64."""
    wide = torch.promote_types(dtype, torch.float32)
    if x.dtype == torch.uint8:
        return x.to(wide).div_(127.5).sub_(1.0)
    return x.to(wide)


def match_channels(x: Tensor, channels: int) -> Tensor:
    """Convert frames (B, C, ...) to a model's `channels`: for a grey model, RGB to BT.601 luma, integer for uint8.

    Grey pictures stored as RGB keep their values. ValueError for any other mismatch.
    """
    if x.shape[1] == channels:
        return x
    check_channels(x.shape[1], channels)
    wide = x.int() if x.dtype == torch.uint8 else x
    weighted = torch.stack([weight * wide[:, i : i + 1] for i, weight in enumerate(LUMA)]).sum(0)
    return ((weighted + 128) >> 8).to(torch.uint8) if x.dtype == torch.uint8 else weighted / 256


def picture_channels(channels: int) -> int:
    """The channels of the pictures that a model of so many `channels` is given: a grey model gets RGB."""
    return 3 if channels == 1 else channels


def check_channels(found: int, channels: int) -> None:
    """ValueError unless a model of so many `channels` takes pictures with `found` channels."""
    if found != picture_channels(channels):
        kinds = {1: "grey pictures or RGB", 3: "RGB"}
        raise ValueError(
            f"pictures have {found} channels, the tokenizer takes {kinds.get(channels, f'{channels} channels')}: "
            "give it another source, or train one with `in_channels`"
        )


def check_scale(x: Tensor, begins: bool = True) -> None:
    """ValueError for float frames (B, C, T, H, W) on a wrong scale: 0..255, or 0..1 if a stream `begins`, not -1..1.

    Their tokens would show other pictures. Values within 0..1 are refused only if they vary: a uniform frame may be
    white, while a real clip is rarely brighter than the middle of [-1, 1] throughout.
    """
    if not x.dtype.is_floating_point or x.dtype.itemsize == 1 or not x.numel() or torch.compiler.is_compiling():
        return
    low, high = (float(value) for value in torch.aminmax(x.detach()))
    if FAR_OUTSIDE < max(-low, high) < math.inf:
        raise ValueError(
            f"float frames reach from {low:g} to {high:g}, expected [-1, 1]: give uint8, or x / 127.5 - 1 of 0..255"
        )
    if begins and low >= 0 and high <= 1 and high - low > VARIED:
        raise ValueError(
            f"float frames reach from {low:g} to {high:g} and look like [0, 1], expected [-1, 1]: give 2 * x - 1, or "
            "uint8; frames that are so bright give (x * 127.5 + 127.5).round().to(torch.uint8)"
        )


def check_dtype(x: Tensor) -> None:
    """TypeError unless x (B, 3, T, H, W) is uint8 or floating point."""
    if not isinstance(x, Tensor):
        raise TypeError(f"frames are a {type(x).__name__}, expected a torch.Tensor; use torch.from_numpy for arrays")
    if x.dtype != torch.uint8 and not x.dtype.is_floating_point:
        raise TypeError(f"frames have dtype {x.dtype}, expected uint8 (0..255) or a float dtype in [-1, 1]")


def check_clip(x: Tensor, config: TokenizerConfig) -> None:
    """Raise unless x is (B, C, T, H, W) or (B, C, H, W) with the config's C, T = 1 + kG and sides on its grid."""
    check_dtype(x)
    channels = config.in_channels
    kind = "RGB" if channels == 3 else f"the {channels} channels"
    shapes = f"(B, {channels}, T, H, W) or (B, {channels}, H, W): {config.name!r} takes {kind}"
    _check_shape(x, x.ndim in (4, 5) and x.shape[1] == channels, "frames", shapes)
    check_scale(x)
    config.grid(*x.shape[-2:])
    frames, group = x.shape[2] if x.ndim == 5 else 1, config.temporal_compression
    if not config.video and x.ndim == 5 and frames != 1:
        raise ValueError(f"{config.name!r} is an image tokenizer and got {frames} frames; give it (B, 3, H, W)")
    if frames < 1 or (frames - 1) % group:
        below = max(0, (frames - 1) // group) * group + 1
        raise ValueError(
            f"a clip has {frames} frames, expected 1 + k * {group} (a keyframe and whole groups); "
            f"cut it to {below} or repeat its last frame up to {below + group}"
        )


def check_finite(latent: Tensor) -> None:
    """NonFiniteError naming the rows of a latent (B, ...) that are not finite."""
    if not torch.compiler.is_compiling() and not torch.isfinite(latent).all():
        bad = (~torch.isfinite(latent).flatten(1).all(1)).nonzero().flatten().tolist()
        raise NonFiniteError(bad, None, "batch rows")


def check_indices(tokens: Tensor, config: TokenizerConfig) -> bool:
    """Raise unless tokens are integers in [0, codebook_size), (B, T', h, w) or (B, h, w), with Q after B if residual.

    Returns True for images, which have no T' axis. TypeError for a wrong dtype, else ValueError.
    """
    if not isinstance(tokens, Tensor) or tokens.dtype not in INTEGERS:
        found = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
        raise TypeError(f"indices are {found}, expected an integer tensor such as int32 or uint16")
    residual = config.quantizer == "residual_fsq"
    shapes = "(B, Q, T', h, w) or (B, Q, h, w)" if residual else "(B, T', h, w) or (B, h, w)"
    _check_shape(tokens, tokens.ndim - residual in (3, 4), "indices", shapes)
    check_range(tokens, config)
    return tokens.ndim - residual == 3


def check_range(tokens: Tensor, config: TokenizerConfig) -> None:
    """ValueError naming the first index of indices (B, ...) outside [0, codebook_size)."""
    if torch.compiler.is_compiling():
        return
    wide, size = tokens.long(), config.codebook_size or 0
    outside = (wide < 0) | (wide >= size)
    if outside.any():
        place = outside.nonzero()[0].tolist()
        raise ValueError(
            f"index {int(wide[tuple(place)])} at {place} is out of range, expected 0..{size - 1} "
            f"({config.name!r}); are these tokens of another tokenizer?"
        )


def check_latent(latent: Tensor, config: TokenizerConfig) -> bool:
    """Raise unless latent is finite float (B, C, T', h, w) or (B, C, h, w), for FSQ in [-1, 1]; True for an image."""
    what = "codes" if config.discrete else "latent"
    if not isinstance(latent, Tensor) or not latent.dtype.is_floating_point:
        found = latent.dtype if isinstance(latent, Tensor) else type(latent).__name__
        raise TypeError(f"the {what} is {found}, expected a float tensor: {config.name!r} is continuous")
    channels = config.code_channels
    shapes = f"(B, {channels}, T', h, w) or (B, {channels}, h, w)"
    _check_shape(latent, latent.ndim in (4, 5) and latent.shape[1] == channels, what, shapes)
    if torch.compiler.is_compiling():
        return latent.ndim == 4
    if not torch.isfinite(latent).all():
        raise ValueError(f"the {what} holds NaN or infinity, expected finite numbers; it was damaged on its way here")
    if config.quantizer == "fsq" and _reach(latent, config) > 1 + 1e-3:
        raise ValueError(
            f"codes reach to {_reach(latent, config):g}, expected [-1, 1]: this is a latent before "
            "quantization; decode the indices, or the codes of `encode`"
        )
    return latent.ndim == 4


def _check_shape(x: Tensor, fits: bool, what: str, shapes: str) -> None:
    found = f"{what} of shape {tuple(x.shape)}"
    if not fits:
        raise ValueError(f"{found}, expected {shapes}")
    if 0 in x.shape:
        axis = list(x.shape).index(0)
        raise ValueError(f"{found}: {f'axis {axis}' if axis else 'B'} is 0, expected 1 or more")


def _reach(codes: Tensor, config: TokenizerConfig) -> float:
    return float(codes.detach()[:, : config.latent_channels].abs().max())
