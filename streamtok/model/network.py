"""The network over groups of frames, which whole clips, streams and training share, and its fingerprint."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from streamtok.config import TokenizerConfig
from streamtok.model.decoder import Decoder
from streamtok.model.encoder import Encoder
from streamtok.model.quantizer import FSQ, Bottleneck, DiscreteBottleneck, build_quantizer
from streamtok.model.state import Clock, State, StateSpec
from streamtok.model.wavelet import haar2d, haar3d, inverse_haar2d, inverse_haar3d


@dataclass(frozen=True)
class Coded:
    """n groups after the bottleneck: codes and latent (B, C, n, h, w), indices (B, n, h, w), (B, Q, n, h, w) or None,
    auxiliary losses, and frames (B, 3, nG, H, W) if encoding had to decode as well."""

    codes: Tensor
    latent: Tensor
    indices: Tensor | None
    losses: dict[str, Tensor] = field(default_factory=dict)
    frames: Tensor | None = None


Half = Literal["encoder", "decoder"]
HALVES: dict[Half, tuple[str, str]] = {
    "encoder": ("encoder", "quant_conv"),
    "decoder": ("decoder", "post_quant_conv"),
}


class Network(nn.Module):
    """Encoder, bottleneck and decoder of the Cosmos family, with their precision, device and fingerprint.

    With `deterministic`, every path runs as steps of one slot and one group.
    """

    axes = "thw"
    encoder: Encoder
    quantizer: Bottleneck
    quant_conv: nn.Conv2d
    post_quant_conv: nn.Conv2d
    decoder: Decoder

    def __init__(self, config: TokenizerConfig, deterministic: bool = False):
        super().__init__()
        self.config, self.deterministic = config, deterministic
        # Cache by the half that is left out: (`stamp` of the hashed weights, fingerprint); stamp None always holds.
        self._fingerprints: dict[Half | None, tuple[tuple | None, str]] = {}
        self.known_as: dict[str, str] = {}  # digest of weights -> fingerprint of others that make the same tokens
        self.quantizer = build_quantizer(config)
        self._build(config)
        if config.slim:
            self._use_channels_last()
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
        """Bits of raw 8-bit RGB divided by bits of tokens."""
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
        """The type of the weights."""
        return self._bottleneck.weight.dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self._bottleneck.weight.device

    @property
    def _bottleneck(self) -> nn.Conv2d:
        return self.quant_conv if "quant_conv" in self._modules else self.post_quant_conv

    def drop(self, half: Half) -> None:
        """Delete the encoder or the decoder, which a checkpoint lacks; methods that need it then raise ValueError."""
        for name in HALVES[half]:
            delattr(self, name)

    def check_has(self, half: Half) -> None:
        """ValueError if the encoder or the decoder was not in the checkpoint."""
        if half not in self._modules:
            other = "decoder" if half == "encoder" else "encoder"
            raise ValueError(
                f"{self.config.name!r} was loaded from a checkpoint of the {other} alone, which cannot {half[:-1]}; "
                f"load one that holds the {half} too"
            )

    @property
    def fingerprint(self) -> str:
        """Identifies what tokens mean: the `weights_digest`.

        A network with another decoder for the same tokens has the fingerprint of the weights it was made from
        (`known_as`).
        """
        return self._fingerprint_of(None)

    def _fingerprint_of(self, without: Half | None) -> str:
        """The fingerprint, or what it would be without one half; cached until weights change."""
        if self._fingerprints.get(without, ((), ""))[0] not in (None, self.stamp):
            digest = self._digest(without) if without else self.weights_digest
            self._fingerprints[without] = self.stamp, self.known_as.get(digest, digest)
        return self._fingerprints[without][1]

    @property
    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Changes whenever weights are written or replaced, but not for writes through `.data`."""

        def pointer(tensor: Tensor) -> int:
            return tensor.data_ptr() if tensor.layout is torch.strided else 0  # oneDNN's own layouts have none

        return tuple((id(each), each._version, pointer(each)) for each in (*self.parameters(), *self.buffers()))

    @property
    def weights_digest(self) -> str:
        """Hex digest (128 bits of SHA-256) of configuration and weights, by name, as float32 values."""
        missing = [half for half in HALVES if half not in self._modules]
        return self._digest(missing[0] if missing else None)

    def keep_fingerprint(self, source: "Network") -> None:
        """Take the fingerprint of `source` until weights change. ValueError unless both encode to the same tokens."""
        if self.config.closed_loop or self._digest("decoder") != source._digest("decoder"):
            raise ValueError(
                f"the tokens of {self.config.name!r} are not those of {source.config.name!r}: its encoder "
                "is another, or has a decoder in its loop"
            )
        self.known_as, self._fingerprints = {self.weights_digest: source.fingerprint}, {}

    def _digest(self, without: Half | None) -> str:
        """The digest without one half, so that a whole checkpoint accepts what its encoder alone made.

        Statistics of latents do not change what a latent means, so they are left out.
        """
        left_out = (f"{without}_", "legacy", "latents_") if without else ("latents_",)
        config = {name: value for name, value in self.config.to_dict().items() if not name.startswith(left_out)}
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
        names = tuple(f"{name}." for name in HALVES[without]) if without else ()
        for name, tensor in sorted(self.state_dict().items()):
            if not name.startswith(names):
                digest.update(name.encode())
                digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
        return digest.hexdigest()[:32]

    def _use_channels_last(self) -> None:
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # PyTorch's hints leave it out

    def check_fingerprint(self, expected: str, what: str = "expected is tokenizer") -> None:
        """ValueError unless `expected` is the fingerprint of these weights or of their encoder alone; the message
        begins with `what`."""
        halves: tuple[Half | None, ...] = (None, "decoder") if "encoder" in self._modules else (None,)
        if not any(expected == self._fingerprint_of(without) for without in halves):
            raise ValueError(
                f"{what} {expected}, {self.config.name!r} here is {self.fingerprint}: other weights or config, whose "
                "codes mean other pictures; give the checkpoint that the node runs with --model, or the one that "
                "made the file"
            )

    # Groups: what clips, streams and training share.

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
        patch = self.config.patch_size
        bands = haar3d(x, patch, self.axes) if self.config.video else haar2d(fold(x), patch)
        return bands.to(self.dtype)

    def to_pixels(self, bands: Tensor, batch: int) -> Tensor:
        """Wavelet bands (B*T', bands, H/p, W/p) -> frames (B, 3, T, H, W), float32 or better."""
        bands = bands.to(torch.promote_types(bands.dtype, torch.float32))
        patch = self.config.patch_size
        if self.config.video:
            return inverse_haar3d(bands, patch, batch, self.axes)
        return unfold(inverse_haar2d(bands, patch), batch)

    def quantize(self, features: Tensor, batch: int, state: State, clock: Clock) -> tuple[Coded, State]:
        """The encoder's features (B*n, z_factor * z_channels, h, w) through the bottleneck, and the new `hold` state if
        there is one."""
        z, held = self.quant_conv(features), {}
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
