"""The tokenizer: encoder, bottleneck and decoder over groups of frames, whole clips and streams by one code path."""

import copy
import hashlib
import json
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from streamtok.config import TokenizerConfig
from streamtok.model.decoder import Decoder
from streamtok.model.encoder import Encoder
from streamtok.model.frames import NonFiniteError, check_dtype, check_indices, check_latent, check_video, to_float
from streamtok.model.quantizer import build_quantizer
from streamtok.model.state import Clock, State, StateSpec
from streamtok.model.stream import DecodeStream, Encoded, EncodeStream
from streamtok.model.wavelet import haar2d, haar3d, inverse_haar2d, inverse_haar3d

Context = int | None | Literal["model"]


@dataclass(frozen=True)
class Reconstruction:
    """What training reads: reconstruction (B, 3, T, H, W) in [-1, 1] scale, indices and latent as in `Encoded`, the
    quantizer's auxiliary losses by name (scalars), and the state to carry on with."""

    reconstruction: Tensor
    indices: Tensor | None
    latent: Tensor
    losses: dict[str, Tensor]
    state: State


@dataclass(frozen=True)
class Coded:
    """n groups through the bottleneck: codes, latent (B, C, n, h, w), indices (B, n, h, w) or (B, Q, n, h, w) or None,
    auxiliary losses, and frames (B, 3, nG, H, W) where coding had to decode as well."""

    codes: Tensor
    latent: Tensor
    indices: Tensor | None
    losses: dict[str, Tensor] = field(default_factory=dict)
    frames: Tensor | None = None


class Tokenizer(nn.Module):
    """A causal video or image tokenizer of the Cosmos family.

    Frames are (B, 3, T, H, W), uint8 or float in [-1, 1], T = 1 + k * temporal_compression. With `deterministic`, every
    path runs as steps of one slot and one group: tokens are bit-identical for any split and any number of slots.
    """

    axes = "thw"

    def __init__(self, config: TokenizerConfig, deterministic: bool = False):
        super().__init__()
        self.config, self.deterministic = config, deterministic
        self.quantizer = build_quantizer(config)
        self._build(config)
        self._casts: dict[tuple, Tokenizer] = {}
        if config.slim:
            self.to(memory_format=torch.channels_last)
        self.eval()

    def _build(self, config: TokenizerConfig) -> None:
        self.encoder = Encoder(config, config.patch_channels)
        self.quant_conv = nn.Conv2d(config.z_channels * config.z_factor, self.quantizer.inputs, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.z_channels, 1)
        self.decoder = Decoder(config, config.patch_channels)

    # Facts about the model.

    @property
    def group(self) -> int:
        """Frames per group, G."""
        return self.config.temporal_compression

    @property
    def compression_ratio(self) -> float:
        """Bits of raw 8-bit RGB over bits of tokens."""
        return self.config.compression_ratio

    @property
    def bits_per_token(self) -> float | None:
        """log2 of the codebook size; None for continuous models."""
        return self.config.bits_per_token

    @property
    def codebook_size(self) -> int | None:
        """How many values an index can take; None for continuous models."""
        return self.config.codebook_size

    @property
    def parameters_count(self) -> int:
        """Number of weights."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def dtype(self) -> torch.dtype:
        """That of the weights."""
        return self.post_quant_conv.weight.dtype

    @property
    def device(self) -> torch.device:
        """That of the weights."""
        return self.post_quant_conv.weight.device

    @property
    def fingerprint(self) -> str:
        """Hex digest (128 bits of SHA-256) of configuration and weights, by name, as float32 values."""
        version = sum(parameter._version for parameter in self.parameters())
        cached = self.__dict__.get("_fingerprint")
        if cached is None or (cached[0] is not None and cached[0] != version):
            digest = hashlib.sha256(json.dumps(self.config.to_dict(), sort_keys=True).encode())
            for name, tensor in sorted(self.state_dict().items()):
                digest.update(name.encode())
                digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
            cached = self.__dict__["_fingerprint"] = (version, digest.hexdigest()[:32])
        return cached[1]

    @torch.inference_mode(False)
    def cast(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> "Tokenizer":
        """This model in another precision or on another device; itself where nothing changes, else a kept copy."""
        dtype, device = dtype or self.dtype, torch.device(device or self.device)
        if not dtype.is_floating_point:
            raise TypeError(f"dtype is {dtype}, expected a floating-point one such as torch.float32 or torch.bfloat16")
        if self.holds(dtype, device):
            return self
        key = (dtype, device, sum(parameter._version for parameter in self.parameters()))
        if key not in self._casts:
            model = self.with_modules(**copy.deepcopy(self._modules)).to(device=device, dtype=dtype)
            if device.type != "cpu" or dtype != torch.float32:
                model.to(memory_format=torch.channels_last)
            self._casts = {key: model}
        return self._casts[key]

    def holds(self, dtype: torch.dtype | None, device: torch.device | str | None) -> bool:
        """Whether the weights are in this precision and on this device already (None: whatever); "cuda" is any GPU."""
        wanted = torch.device(device or self.device)
        here = wanted.type == self.device.type and wanted.index in (None, self.device.index)
        return here and (dtype or self.dtype) == self.dtype

    def with_modules(self, **modules: nn.Module) -> "Tokenizer":
        """This tokenizer with some sub-modules exchanged; it shares the others and keeps its fingerprint."""
        fingerprint, made = self.fingerprint, copy.copy(self)
        made.__dict__.update(_casts={}, _modules=self._modules | modules, _fingerprint=(None, fingerprint))
        return made

    # Groups: what clips, streams and training share.

    def init_state(self, spec: StateSpec, height: int, width: int) -> State:
        """The state of an encoder of height x width frames, all zeros."""
        patch = self.config.patch_size
        return {"encoder": self.encoder.init_state(spec, height // patch, width // patch)}

    def init_decode_state(self, spec: StateSpec, grid_height: int, grid_width: int) -> State:
        """The state of a decoder of (grid_height, grid_width) grids, all zeros."""
        return {"decoder": self.decoder.init_state(spec, grid_height, grid_width)}

    def encode_groups(self, x: Tensor, state: State, clock: Clock) -> tuple[Coded, State]:
        """x (B, 3, nG, H, W) float -> n latent steps, and the new state."""
        features, encoder = self.encoder(self._bands(x), state["encoder"], clock)
        return self._bottleneck(features, x.shape[0]), {"encoder": encoder}

    def decode_groups(self, codes: Tensor, state: State, clock: Clock) -> tuple[Tensor, State]:
        """codes (B, C, n, h, w) -> frames (B, 3, nG, H, W) in [-1, 1] scale, and the new state."""
        z = self.post_quant_conv(fold(codes.to(self.dtype)))
        bands, decoder = self.decoder(z, state["decoder"], clock)
        return self._pixels(bands, codes.shape[0]), {"decoder": decoder}

    def _bands(self, x: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B*T', bands, H/p, W/p) in the model's precision."""
        patch = self.config.patch_size
        bands = haar3d(x, patch, self.axes) if self.config.video else haar2d(fold(x), patch)
        return bands.to(self.dtype)

    def _pixels(self, bands: Tensor, batch: int) -> Tensor:
        bands = bands.to(torch.promote_types(bands.dtype, torch.float32))
        patch = self.config.patch_size
        if self.config.video:
            return inverse_haar3d(bands, patch, batch, self.axes)
        return unfold(inverse_haar2d(bands, patch), batch)

    def _bottleneck(self, features: Tensor, batch: int) -> Coded:
        out = self.quantizer(self.quant_conv(features))
        indices = None if out.indices is None else out.indices.unflatten(0, (batch, -1))
        if indices is not None and indices.ndim == 5:
            indices = indices.transpose(1, 2)
        return Coded(unfold(out.codes, batch), unfold(out.latent, batch), indices, out.losses)

    def codes(self, tokens: Tensor) -> Tensor:
        """Indices (B, n, h, w) or (B, Q, n, h, w), or a continuous latent (B, C, n, h, w) -> codes (B, C, n, h, w)."""
        if not self.config.discrete:
            return tokens.to(self.dtype)
        batch = tokens.shape[0]
        flat = tokens.flatten(0, 1) if tokens.ndim == 4 else tokens.transpose(1, 2).flatten(0, 1)
        return unfold(self.quantizer.decode(flat, self.dtype), batch)

    # Whole clips.

    @torch.no_grad()
    def encode(self, x: Tensor, context: Context = "model", sample: bool = False) -> Encoded:
        """Frames (B, 3, T, H, W) or (B, 3, H, W) to tokens, as a stream that starts at the first frame would.

        uint8, or float in [-1, 1]. `context` bounds temporal attention in latent steps (None: unbounded). `sample`
        draws from a variational model instead of taking its mean. Raises ValueError or TypeError for sizes, counts
        and types that do not fit and NonFiniteError (a ValueError) for latents that are not finite.

        Memory grows with the clip; long videos go through `stream`, which gives the same tokens in constant memory.
        """
        check_video(x, self.config)
        still = x.ndim == 4
        x = to_float(x.unsqueeze(2) if still else x, self.dtype).to(self.device)
        groups = torch.cat([x[:, :, :1].expand(-1, -1, self.group, -1, -1), x[:, :, 1:]], 2)
        self._set_sampling(sample)
        try:
            coded = self._run(groups, self._context(context), encode=True)
        finally:
            self._set_sampling(False)
        if not torch.isfinite(coded.latent).all():
            bad = (~torch.isfinite(coded.latent).flatten(1).all(1)).nonzero().flatten().tolist()
            raise NonFiniteError(bad, None, "the latent of batch rows")
        indices = None if coded.indices is None else coded.indices.int()
        if still:
            return Encoded(None if indices is None else indices.squeeze(-3), coded.latent.squeeze(2))
        return Encoded(indices, coded.latent)

    @torch.no_grad()
    def decode(self, tokens: Tensor, context: Context = "model") -> Tensor:
        """Indices (B, T', h, w) or a continuous latent (B, C, T', h, w) to frames (B, 3, T, H, W), T = 1 + (T' - 1) G.

        Without the T' axis, one image (B, 3, H, W). Any integer dtype. Float in [-1, 1] scale, unclipped. Raises
        ValueError for tokens out of range or latents that are not finite, TypeError for a wrong dtype.
        """
        check = check_indices if self.config.discrete else check_latent
        still = check(tokens, self.config)
        tokens = (tokens.unsqueeze(-3) if still else tokens).to(self.device)
        frames = self._run(self.codes(tokens), self._context(context), encode=False)[:, :, self.group - 1 :]
        return frames.squeeze(2) if still else frames

    def forward(self, x: Tensor, state: State | None = None) -> Reconstruction:
        """Encode and decode with gradients, for training.

        x (B, 3, 1 + kG, H, W) from a fresh start; with the state of an earlier call, x (B, 3, kG, H, W) goes on.
        """
        check_dtype(x)
        x, fresh = to_float(x, self.dtype), state is None
        if x.ndim != 5 or x.shape[1] != 3 or x.shape[2] < 1 or (x.shape[2] - fresh) % self.group:
            raise ValueError(
                f"frames have shape {tuple(x.shape)}, expected (B, 3, T, H, W), T = {'1 + ' * fresh}k * {self.group}"
            )
        batch, height, width = x.shape[0], *x.shape[-2:]
        if fresh:
            x = torch.cat([x[:, :, :1].expand(-1, -1, self.group, -1, -1), x[:, :, 1:]], 2)
            spec = StateSpec(batch, self.config.context, self.dtype, x.device)
            state = self.init_state(spec, height, width) | self.init_decode_state(
                spec, *self.config.grid(height, width)
            )
            state["count"] = torch.zeros(batch, dtype=torch.long, device=x.device)
        clock = Clock(state["count"], self.config.context)
        coded, encoded = self.encode_groups(x, state, clock)
        frames = coded.frames
        decoded: State = {}
        if frames is None:
            frames, decoded = self.decode_groups(coded.codes, state, clock)
        new = encoded | decoded | {"count": state["count"] + coded.latent.shape[2]}
        frames = frames[:, :, self.group - 1 :] if fresh else frames
        return Reconstruction(frames, coded.indices, coded.latent, coded.losses, new)

    def _run(self, x: Tensor, context: int | None, encode: bool) -> Coded | Tensor:
        """Whole clips from a fresh start: groups (B, 3, nG, H, W) to `Coded`, or codes (B, C, n, h, w) to frames."""
        steps = x.shape[2] // self.group if encode else x.shape[2]
        init = self.init_state if encode else self.init_decode_state
        run = self.encode_groups if encode else self.decode_groups
        stepwise = self.deterministic or self.config.predictive
        keep = min(steps, context or steps) if stepwise else 0
        if self.deterministic and context is not None:
            keep = context
        spec = StateSpec(1 if self.deterministic else x.shape[0], keep, self.dtype, self.device)
        if not self.deterministic:
            state = init(spec, *x.shape[-2:])
            return run(x, state, Clock(torch.zeros(len(x), dtype=torch.long, device=self.device), context))[0]
        rows = []
        for row in x.split(1):
            state, parts = init(spec, *x.shape[-2:]), []
            for i, part in enumerate(row.split(x.shape[2] // steps, 2)):
                clock = Clock(torch.full((1,), i, device=self.device), context)
                out, state = run(part.contiguous(), state, clock)
                parts.append(out)
            rows.append(_concatenate(parts, 2))
        return _concatenate(rows, 0)

    def _context(self, context: Context) -> int | None:
        if context == "model":
            return self.config.context
        if context is not None and context < 1:
            raise ValueError(f"context is {context}, expected at least 1 latent step, or None for unbounded")
        return context  # type: ignore[return-value]

    def _set_sampling(self, sample: bool) -> None:
        if self.config.quantizer == "vae":
            self.quantizer.sample = sample
        elif sample:
            raise ValueError(
                f"sample=True needs a variational model, {self.config.name!r} has {self.config.quantizer!r}"
            )

    # Streams.

    def stream(
        self,
        slots: int,
        height: int,
        width: int,
        context: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        compile_step=None,
    ) -> EncodeStream:
        """State for `slots` cameras of height x width, stepped one group at a time; see `EncodeStream`.

        `context` latent steps of attention (default: the model's); dtype and device default to the weights'.
        `compile_step` takes the eager step function and returns a faster one (see `streamtok.engine`).
        """
        model = self.cast(dtype, device)
        return EncodeStream(model, slots, (height, width), context or self.config.context, compile_step)

    def decode_stream(
        self,
        slots: int,
        grid_height: int,
        grid_width: int,
        context: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        compile_step=None,
    ) -> DecodeStream:
        """As `stream`, for decoding grids of (grid_height, grid_width); see `DecodeStream`."""
        model = self.cast(dtype, device)
        return DecodeStream(model, slots, (grid_height, grid_width), context or self.config.context, compile_step)


def fold(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B*T, C, H, W), channels last."""
    return x.permute(0, 2, 3, 4, 1).flatten(0, 1).contiguous().permute(0, 3, 1, 2)


def unfold(x: Tensor, batch: int) -> Tensor:
    """(B*T, C, H, W) -> (B, C, T, H, W)."""
    return x.unflatten(0, (batch, -1)).transpose(1, 2)


def _concatenate(parts: list, dim: int):
    """Frames, or `Coded` by field, along batch (0) or time (2; one less from the end for indices)."""
    if isinstance(parts[0], Tensor):
        return torch.cat(parts, dim)
    indices = None if parts[0].indices is None else torch.cat([part.indices for part in parts], -3 if dim else 0)
    codes, latent = (torch.cat([getattr(part, name) for part in parts], dim) for name in ("codes", "latent"))
    return Coded(codes, latent, indices)
