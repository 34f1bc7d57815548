"""Bottlenecks: they turn the latent into codes and indices (FSQ and others), and indices back into codes.

Each maps z (N, Z, h, w) to `Quantized`; a continuous one has no indices. Discrete ones also decode indices.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from streamtok.config import TokenizerConfig
from streamtok.extras import needs_extra
from streamtok.model.functional import keep_constants


@dataclass(frozen=True)
class Quantized:
    """The output of a bottleneck."""

    codes: Tensor  # (N, C, h, w), what the decoder reads
    latent: Tensor  # (N, C, h, w), before rounding
    indices: Tensor | None = None  # int64 (N, h, w), of residual quantizers (N, Q, h, w); None for continuous models
    losses: dict[str, Tensor] = field(default_factory=dict)  # auxiliary losses by name, scalars


class Bottleneck(nn.Module, ABC):
    """Turns features of `inputs` channels into `Quantized`."""

    inputs: int

    @abstractmethod
    def forward(self, z: Tensor) -> Quantized:
        """z (N, inputs, h, w) -> codes, latent, indices and losses."""


class DiscreteBottleneck(Bottleneck):
    """A bottleneck with indices."""

    @abstractmethod
    def decode(self, indices: Tensor, dtype: torch.dtype) -> Tensor:
        """indices (N, h, w) or (N, Q, h, w) -> codes (N, C, h, w)."""


class FSQTables(NamedTuple):
    """The constants of FSQ by channel, each (C, 1, 1).

    Floating point: the half width of the bound, its offset and shift, and half the number of levels. int64: the number
    of levels, and the channel's weight in the index.
    """

    half: Tensor
    offset: Tensor
    shift: Tensor
    middle: Tensor
    levels: Tensor
    basis: Tensor


@keep_constants
def fsq_tables(levels: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> FSQTables:
    """The constants of FSQ, computed once."""
    whole = torch.tensor(levels).view(-1, 1, 1)
    wide = whole.to(torch.promote_types(dtype, torch.float32))
    half = (wide - 1) * (1 + 1e-3) / 2
    offset = torch.where(whole % 2 == 0, 0.5, 0.0).to(wide)
    basis = torch.tensor([1, *levels[:-1]]).cumprod(0).view(-1, 1, 1)
    floats = (half, offset, torch.atanh(offset / half), whole // 2)
    half, offset, shift, middle = (table.to(device, dtype) for table in floats)
    return FSQTables(half, offset, shift, middle, whole.to(device), basis.to(device))


class FSQ(DiscreteBottleneck):
    """Finite scalar quantization (Mentzer et al. 2023, section 3.1 and appendix A.1), as Cosmos uses it.

    Each channel is bounded by tanh to the range of its levels and rounded, with straight-through gradients. It runs in
    float32 or better whatever the model's precision.
    """

    def __init__(self, levels: tuple[int, ...]):
        super().__init__()
        self.levels = levels
        self.inputs = len(levels)

    def bound(self, z: Tensor) -> Tensor:
        """The values before rounding: z (N, C, h, w) -> same, within the range of each channel's levels."""
        tables = fsq_tables(self.levels, z.dtype, z.device)
        return torch.tanh(z + tables.shift) * tables.half - tables.offset

    def forward(self, z: Tensor) -> Quantized:
        """z (N, C, h, w) -> codes in [-1, 1] in z's dtype, indices in [0, product of levels)."""
        bounded = self.bound(z.to(torch.promote_types(z.dtype, torch.float32)))
        return self._quantized(z, bounded, bounded.detach().round())

    def hold(self, z: Tensor, levels: Tensor, margin: Tensor, started: Tensor) -> tuple[Quantized, Tensor]:
        """As `forward`, with hysteresis: a level stays what it was one step before.

        It stays while the bounded value is at most `margin` outside that level's rounding interval.

        z (B * n, C, h, w) of n steps, `levels` (B, C, h, w) of the step before, margin (B,) in levels, `started` (B,)
        bool: whether there was such a step -> the output, and the levels of the last step.
        """
        bounded = self.bound(z.to(levels.dtype))
        reach, begun, whole = 0.5 + margin.view(-1, 1, 1, 1), started.view(-1, 1, 1, 1), []
        for value in bounded.detach().unflatten(0, (len(levels), -1)).unbind(1):
            levels = torch.where(begun & ((value - levels).abs() < reach), levels, value.round())
            begun = torch.ones_like(begun)
            whole.append(levels)
        return self._quantized(z, bounded, torch.stack(whole, 1).flatten(0, 1)), levels

    def _quantized(self, z: Tensor, bounded: Tensor, whole: Tensor) -> Quantized:
        tables = fsq_tables(self.levels, bounded.dtype, bounded.device)
        rounded = bounded + (whole - bounded).detach()
        indices = ((whole + tables.middle).long() * tables.basis).sum(1)
        losses = {"correlation": correlation(bounded)} if self.training else {}
        return Quantized((rounded / tables.middle).to(z.dtype), z, indices, losses)

    @torch.no_grad()
    def measure_noise(self, z: Tensor, indices: Tensor) -> float:
        """The quantization noise of indices (N, h, w) for a latent z (N, C, h, w), in dB over that of plain rounding;
        not finite for a latent that is not."""
        bounded = self.bound(z.to(torch.promote_types(z.dtype, torch.float32)))
        tables = fsq_tables(self.levels, bounded.dtype, bounded.device)
        whole = indices.long()[:, None] // tables.basis % tables.levels - tables.middle
        held, rounded = ((bounded - level).square().mean().item() for level in (whole, bounded.round()))
        return 10 * math.log10(max(held, 1e-12) / max(rounded, 1e-12))

    def decode(self, indices: Tensor, dtype: torch.dtype) -> Tensor:
        """indices (N, h, w) -> codes (N, C, h, w)."""
        tables = fsq_tables(self.levels, dtype, indices.device)
        digits = indices.long()[:, None] // tables.basis % tables.levels
        return digits.to(dtype) / tables.middle - 1


def correlation(z: Tensor) -> Tensor:
    """Mean squared correlation between different channels of z (N, C, h, w), a scalar in [0, 1].

    Correlated channels waste codes: without this loss, early training uses half of FSQ's dimensions.
    """
    places = z.transpose(0, 1).flatten(1).float()
    centred = places - places.mean(1, keepdim=True)
    unit = centred / (centred.norm(dim=1, keepdim=True) + 1e-6)
    gram = unit @ unit.T
    return (gram.square().sum() - gram.diagonal().square().sum()) / (len(z[0]) * (len(z[0]) - 1))


class Autoencoder(Bottleneck):
    """The identity, for continuous models: the latent is the code."""

    def __init__(self, channels: int):
        super().__init__()
        self.inputs = channels

    def forward(self, z: Tensor) -> Quantized:
        """z (N, C, h, w) -> itself."""
        return Quantized(z, z)


class Variational(Bottleneck):
    """A diagonal Gaussian (Kingma and Welling 2014) with the KL divergence as loss; gives its mean unless `sample`."""

    def __init__(self, channels: int):
        super().__init__()
        self.inputs = 2 * channels
        self.sample = False

    def forward(self, z: Tensor) -> Quantized:
        """z (N, 2C, h, w), mean and log variance -> codes (N, C, h, w), sampled in training mode too."""
        mean, log_variance = z.chunk(2, 1)
        log_variance = log_variance.clamp(-30.0, 20.0)
        noisy = self.sample or self.training
        codes = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean) if noisy else mean
        kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(1).mean()
        return Quantized(codes, codes if self.sample else mean, losses={"kl": kl})


class Lookup(DiscreteBottleneck):
    """Residual FSQ, LFQ and VQ of the package vector-quantize-pytorch (extra `quantizers`)."""

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        with needs_extra(f"quantizer {config.quantizer!r}", "quantizers"):
            import vector_quantize_pytorch as vq
        self.inputs, self.kind = config.latent_channels, config.quantizer
        if self.kind == "residual_fsq":
            self.layer = vq.ResidualFSQ(
                levels=list(config.levels), num_quantizers=config.num_quantizers, dim=config.latent_channels
            )
        elif self.kind == "lfq":
            self.layer = vq.LFQ(codebook_size=config.codebook_size, dim=config.latent_channels, entropy_loss_weight=0.1)
        else:
            self.layer = vq.VectorQuantize(dim=config.latent_channels, codebook_size=config.codebook_size)

    def forward(self, z: Tensor) -> Quantized:
        """z (N, C, h, w) -> codes, indices (N, h, w) or (N, Q, h, w), and the package's auxiliary loss."""
        places = z.to(torch.promote_types(z.dtype, torch.float32)).permute(0, 2, 3, 1)
        shape = places.shape[:3]
        codes, indices, *loss = self.layer(places.flatten(1, 2))
        codes = codes.unflatten(1, shape[1:]).permute(0, 3, 1, 2).to(z.dtype)
        indices = indices.long().unflatten(1, shape[1:])
        if self.kind == "residual_fsq":
            return Quantized(codes, z, indices.permute(0, 3, 1, 2))
        name = "entropy_commitment" if self.kind == "lfq" else "commitment"
        return Quantized(codes, z, indices, {name: loss[0].sum()})

    def decode(self, indices: Tensor, dtype: torch.dtype) -> Tensor:
        """indices (N, h, w) or (N, Q, h, w) -> codes (N, C, h, w)."""
        if self.kind == "lfq":
            codes = self.layer.indices_to_codes(indices.long().flatten(1))
            return codes.unflatten(1, indices.shape[1:]).movedim(-1, 1).to(dtype)
        places = indices.long().permute(0, 2, 3, 1) if self.kind == "residual_fsq" else indices.long()
        codes = self.layer.get_output_from_indices(places.flatten(1, 2))
        return codes.unflatten(1, places.shape[1:3]).permute(0, 3, 1, 2).to(dtype)


def build_quantizer(config: TokenizerConfig) -> Bottleneck:
    """The bottleneck that a configuration names."""
    if config.quantizer == "fsq":
        return FSQ(config.levels)
    if config.quantizer == "ae":
        return Autoencoder(config.latent_channels)
    if config.quantizer == "vae":
        return Variational(config.latent_channels)
    return Lookup(config)
