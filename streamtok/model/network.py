"""The network over groups of frames, which whole clips, streams and training share."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from streamtok.config import TokenizerConfig
from streamtok.model.decoder import Decoder
from streamtok.model.encoder import Encoder
from streamtok.model.fingerprint import Weights
from streamtok.model.quantizer import FSQ, Bottleneck, DiscreteBottleneck, build_quantizer
from streamtok.model.state import Clock, State, StateSpec
from streamtok.model.wavelet import haar, inverse_haar


@dataclass(frozen=True)
class Coded:
    """n groups after the bottleneck: codes and latent (B, C, n, h, w), indices (B, n, h, w), (B, Q, n, h, w) or None,
    auxiliary losses, and frames (B, 3, nG, H, W) if encoding had to decode as well."""

    codes: Tensor
    latent: Tensor
    indices: Tensor | None
    losses: dict[str, Tensor] = field(default_factory=dict)
    frames: Tensor | None = None


class Network(Weights):
    """Encoder, bottleneck and decoder of the Cosmos family.

    With `deterministic`, every path runs as steps of one slot and one group.
    """

    encoder: Encoder
    quantizer: Bottleneck
    decoder: Decoder

    def __init__(self, config: TokenizerConfig, deterministic: bool = False):
        super().__init__(config)
        self.deterministic = deterministic
        self.quantizer = build_quantizer(config)
        self._build(config)
        if config.slim:
            self._use_channels_last()
        self.eval()

    @property
    def axes(self) -> str:
        """The wavelet's axes, from slow to fast, as `haar_matrix` takes them."""
        if self.config.predictive:
            return "=thw"  # bands that do not vary in time come first: these the reference predicts
        return "thw" if self.config.video else "wh"

    def _build(self, config: TokenizerConfig) -> None:
        self.encoder = Encoder(config, config.patch_channels)
        self.quant_conv = nn.Conv2d(config.z_channels * config.z_factor, self.quantizer.inputs, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.z_channels, 1)
        self.decoder = Decoder(config, config.patch_channels)

    def _use_channels_last(self) -> None:
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # PyTorch's hints leave it out

    def init_state(self, spec: StateSpec, height: int, width: int) -> State:
        """The encoder's state for height x width frames, all zeros; ValueError without an encoder."""
        self.check_has("encoder")
        patch = self.config.patch_size
        return {"encoder": self.encoder.init_state(spec, height // patch, width // patch)}

    def init_decode_state(self, spec: StateSpec, grid_height: int, grid_width: int) -> State:
        """The decoder's state for (grid_height, grid_width) grids, all zeros; ValueError without a decoder."""
        self.check_has("decoder")
        return {"decoder": self.decoder.init_state(spec, grid_height, grid_width)}

    def init_hold(self, spec: StateSpec, height: int, width: int) -> State:
        """The encoder's state `hold` for height x width frames, all zeros: `levels` (S, C, h, w) of the last step, and
        `margin` (S,), which no reset clears: how far outside their rounding interval levels are kept.

        ValueError unless this is a video tokenizer of plain FSQ.
        """
        config = self.config
        if not config.holds_levels:
            raise ValueError(
                f"hold is for video tokenizers of plain FSQ, whose levels can stay what they were; {config.name!r} is "
                f"{'an image tokenizer' if not config.video else 'refining' if config.refinement else config.quantizer}"
            )
        wide = widen(spec)
        return {"levels": wide.zeros(config.latent_channels, *config.grid(height, width)), "margin": wide.zeros()}

    def encode_groups(self, x: Tensor, state: State, clock: Clock) -> tuple[Coded, State]:
        """x (B, 3, nG, H, W) float -> n latent steps and the new state."""
        features, encoder = self.encoder(self.observe(x, state, clock), state["encoder"], clock)
        coded, held = self.quantize(features, x.shape[0], state, clock)
        return coded, {"encoder": encoder} | held

    def decode_groups(self, codes: Tensor, state: State, clock: Clock) -> tuple[Tensor, State]:
        """codes (B, C, n, h, w) -> frames (B, 3, nG, H, W) in [-1, 1] scale, and the new state."""
        z = self.post_quant_conv(fold(codes.to(self.dtype)))
        bands, decoder = self.decoder(z, state["decoder"], clock)
        return self.to_pixels(bands, codes.shape[0]), {"decoder": decoder}

    def observe(self, x: Tensor, state: State, clock: Clock) -> Tensor:
        """The encoder's input: frames (B, 3, T, H, W) -> (B*T', bands, H/p, W/p) in the model's precision."""
        return self.to_bands(x)

    def to_bands(self, x: Tensor) -> Tensor:
        """Frames (B, 3, T, H, W) -> wavelet bands (B*T', bands, H/p, W/p) in the model's precision."""
        return haar(x, self.config.patch_size, self.axes).to(self.dtype)

    def to_pixels(self, bands: Tensor, batch: int) -> Tensor:
        """Wavelet bands (B*T', bands, H/p, W/p) -> frames (B, 3, T, H, W), float32 or better."""
        bands = bands.to(torch.promote_types(bands.dtype, torch.float32))
        return inverse_haar(bands, self.config.patch_size, batch, self.axes)

    def quantize(self, features: Tensor, batch: int, state: State, clock: Clock) -> tuple[Coded, State]:
        """The encoder's features (B*n, z_factor * z_channels, h, w) through the bottleneck, and the new `hold` state if
        there is one."""
        return self.quantize_latent(self.quant_conv(features), batch, state, clock)

    def quantize_latent(self, z: Tensor, batch: int, state: State, clock: Clock) -> tuple[Coded, State]:
        """As `quantize`, of z (B*n, C, h, w), what the bottleneck reads."""
        held: State = {}
        if "hold" in state:
            assert isinstance(self.quantizer, FSQ)  # checked by `init_hold`
            hold = state["hold"]
            out, levels = self.quantizer.hold(z, hold["levels"], hold["margin"], clock.started)
            held = {"hold": hold | {"levels": levels}}
        else:
            out = self.quantizer(z)
        indices = None if out.indices is None else out.indices.unflatten(0, (batch, -1))
        if indices is not None and indices.ndim == 5:
            indices = indices.transpose(1, 2)
        return Coded(unfold(out.codes, batch), unfold(out.latent, batch), indices, out.losses), held

    def read_codes(self, tokens: Tensor) -> Tensor:
        """Indices (B, n, h, w) or (B, Q, n, h, w), or a continuous latent (B, C, n, h, w) -> codes (B, C, n, h, w)."""
        if not isinstance(self.quantizer, DiscreteBottleneck):
            return tokens.to(self.dtype)
        batch = tokens.shape[0]
        flat = tokens.flatten(0, 1) if tokens.ndim == 4 else tokens.transpose(1, 2).flatten(0, 1)
        return unfold(self.quantizer.decode(flat, self.dtype), batch)


def widen(spec: StateSpec) -> StateSpec:
    """The same spec in float32 or better, for state that may not lose precision from step to step."""
    return StateSpec(spec.slots, spec.context, torch.promote_types(spec.dtype, torch.float32), spec.device)


def fold(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B*T, C, H, W), channels last."""
    return x.permute(0, 2, 3, 4, 1).flatten(0, 1).contiguous().permute(0, 3, 1, 2)


def unfold(x: Tensor, batch: int) -> Tensor:
    """(B*T, C, H, W) -> (B, C, T, H, W)."""
    return x.unflatten(0, (batch, -1)).transpose(1, 2)


def join_coded(parts: Sequence[Coded], dim: int) -> Coded:
    """Concatenate along the batch (dim 0) or along time (dim 2); auxiliary losses are averaged."""
    codes, latent = (torch.cat([getattr(part, name) for part in parts], dim) for name in ("codes", "latent"))
    indices = [part.indices for part in parts if part.indices is not None]
    frames = [part.frames for part in parts if part.frames is not None]
    losses = {name: torch.stack([part.losses[name] for part in parts]).mean() for name in parts[0].losses}
    joined = torch.cat(indices, -3 if dim else 0) if indices else None
    return Coded(codes, latent, joined, losses, torch.cat(frames, dim) if frames else None)
