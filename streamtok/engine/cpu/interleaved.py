"""Kernels "interleaved": 4x video models on a CPU, with temporal convolutions that never copy their past.

Each temporal convolution keeps a ring of three frames, interleaved pixel by pixel: (S, H, W, 3, C), step n at n % 3. A
step overwrites the oldest frame and multiplies the whole ring by a weight whose taps are rotated to match. So nothing
is concatenated, moved or selected. The host knows each slot's step count and picks the weight.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamtok.engine.configuration import EngineConfiguration
from streamtok.engine.cpu.winograd import exchange_wide, use_winograd
from streamtok.engine.rebuild import copy_conv, copy_module, exchange_modules
from streamtok.engine.rings import roll, unroll
from streamtok.engine.streams import Streams
from streamtok.model import DecodeStream, Encoded, EncodeStream, Tokenizer
from streamtok.model.decoder import Decoder
from streamtok.model.encoder import Encoder, StillConv
from streamtok.model.layers import FactorizedConv
from streamtok.model.network import fold
from streamtok.model.state import Clock, State, StateSpec
from streamtok.model.wavelet import haar_matrix

TAPS = 3
PATCH = 4  # patch size of the wavelets that are merged into convolutions or read bytes


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (..., C), weight (D, C), bias (D,) -> (..., D), by oneDNN if PyTorch has it.

    PyTorch's default for float32 is another library, slower on the AMD processors where this was tried.
    """
    if x.dtype is torch.float32 and _ONEDNN:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class InterleavedConv(nn.Module):
    """`FactorizedConv` for one frame per step. x (B, C, H, W) -> y (B, D, H, W); the past is changed in place."""

    past_frames = 2
    first: Tensor
    second: Tensor
    turned: Tensor

    def __init__(self, conv: FactorizedConv):
        super().__init__()
        self.spatial, self.channels = conv.spatial, conv.temporal.weight.shape[2]
        oldest, middle, newest = conv.temporal.weight.detach()
        self.register_buffer("first", (oldest.float() + middle.float() + newest.float()).to(oldest.dtype))
        self.register_buffer("second", torch.cat([(oldest.float() + middle.float()).to(oldest.dtype), newest], 1))
        turned = [
            torch.cat([(oldest, middle, newest)[(lie - n - 1) % TAPS] for lie in range(TAPS)], 1) for n in range(TAPS)
        ]
        self.register_buffer("turned", torch.stack(turned))
        self.bias = conv.temporal.bias

    def init_state(self, spec: StateSpec, height: int, width: int) -> Tensor:
        """(S, H, W, 3, C)."""
        return spec.zeros(height, width, TAPS, self.channels)

    def forward(self, x: Tensor, past: Tensor, clock: Clock) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W), past (B, H, W, 3, C) -> y (B, D, H, W) and the same past."""
        frames = self.spatial(x).permute(0, 2, 3, 1)
        parts = []
        for slot, count in enumerate(clock.count.tolist()):
            past[slot, :, :, count % TAPS] = frames[slot]
            if count == 0:
                parts.append(linear(frames[slot], self.first, self.bias))
            elif count == 1:
                parts.append(linear(past[slot, :, :, :2].flatten(2), self.second, self.bias))
            else:
                parts.append(linear(past[slot].flatten(2), self.turned[count % TAPS], self.bias))
        return torch.stack(parts).permute(0, 3, 1, 2) if len(parts) > 1 else parts[0][None].permute(0, 3, 1, 2), past

    def to_plain(self, past: Tensor, count: Tensor) -> Tensor:
        """The ring as the past of a `FactorizedConv`: (S, H, W, 3, C), count (S,) int64 -> (S, 2, H, W, C)."""
        return unroll(past.permute(0, 3, 1, 2, 4), count, self.past_frames)

    def from_plain(self, past: Tensor, count: Tensor) -> Tensor:
        """The inverse of `to_plain`: (S, 2, H, W, C) -> (S, H, W, 3, C)."""
        return roll(past, count, TAPS).permute(0, 2, 3, 1, 4).contiguous()


class BytesEncoder:
    """An interleaved encoder that reads uint8 frames in groups of four; its weights include the scaling to [-1, 1].

    `wide` is the first convolution's weight before the cast. With `merge`, that convolution includes the wavelet too.
    """

    def __init__(self, encoder: Encoder, first: FactorizedConv, wide: Tensor, axes: str, merge: bool):
        weight = wide.detach().float().unflatten(1, (PATCH**3, -1)).transpose(1, 2) / (PATCH**3 * 127.5)
        signs = haar_matrix(PATCH, axes, torch.float32, torch.device("cpu")) * PATCH**3
        dtype = first.spatial.weight.dtype
        # the offset maps 127.5 to 0 in the band of means
        self.haar = None if merge else (signs.to(dtype).contiguous(), (-127.5 * signs.sum(1)).to(dtype))
        if merge:
            weight = torch.einsum("dcbkl,bp->dcpkl", weight, signs)
        assert first.spatial.bias is not None
        spatial: nn.Module = copy_conv(first.spatial, weight.flatten(1, 2), first.spatial.bias)
        if merge:
            spatial = exchange_wide(spatial)
        self.encoder = copy_module(encoder, conv_in=InterleavedConv(copy_module(first, spatial=spatial)))

    def __call__(self, frames: Tensor, state: State, clock: Clock) -> tuple[Tensor, State]:
        """uint8 frames (B, 3, 4, H, W) -> features (B, z_factor * z_channels, h, w), and the encoder's new state."""
        return self.encoder(transform_bytes(frames, self.haar), state, clock)


def transform_bytes(frames: Tensor, haar: tuple[Tensor, Tensor] | None) -> Tensor:
    """uint8 frames (B, 3, 4, H, W) -> bands (B, 192, H/4, W/4) times 64 * 127.5, colour slowest, channels last.

    `haar` has signs and offsets. Bytes are exact in bfloat16, and their sums in the product's accumulator, so there is
    one rounding in all. If it is None the result is the pixels themselves, -127.5 to 127.5 in float32.
    """
    batch, colours, _, height, width = frames.shape
    quads = frames.contiguous().view(torch.int32)  # four pixels of a row move together
    cells = quads.view(batch, colours, 4, height // 4, 4, width // 4).permute(0, 3, 5, 1, 2, 4).contiguous()
    pixels = cells.view(torch.uint8).view(-1, 64)
    values = linear(pixels.to(haar[0].dtype), *haar) if haar else pixels.float().sub_(127.5)
    return values.view(batch, height // 4, width // 4, colours * 64).permute(0, 3, 1, 2)


class PixelDecoder:
    """A decoder of groups of four frames whose last convolution includes the inverse wavelet and gives pixels."""

    def __init__(self, decoder: Decoder, last: StillConv, axes: str):
        patches = haar_matrix(PATCH, axes, torch.float64, torch.device("cpu")) * PATCH**3  # its own inverse, transposed
        assert last.bias is not None

        def merge(values: Tensor) -> Tensor:
            """Turn a weight or bias that gives bands, (C * 64, ...), into one that gives pixels, float64."""
            bands = values.detach().double().unflatten(0, (PATCH**3, -1))
            return torch.einsum("bc...,bp->cp...", bands, patches).flatten(0, 1)

        conv = copy_conv(last, merge(last.weight), merge(last.bias))
        self.decoder = copy_module(decoder, conv_out=exchange_wide(conv))

    def __call__(self, z: Tensor, state: State, clock: Clock) -> tuple[Tensor, State]:
        """z (B, z_channels, h, w) -> frames (B, 3, 4, H, W), and the decoder's new state."""
        cells, state = self.decoder(z, state, clock)
        batch, channels, h, w = cells.shape
        cells = cells.view(batch, channels // PATCH**3, PATCH, PATCH, PATCH, h, w)
        return cells.permute(0, 1, 2, 5, 3, 6, 4).reshape(batch, -1, PATCH, h * PATCH, w * PATCH), state


class InterleavedStream(EncodeStream):
    """An encoding stream of an interleaved model: one slot at a time, only those that are active."""

    def __init__(
        self, model: Tokenizer, slots: int, size: tuple[int, int], context: int, bytes_encoder: BytesEncoder | None
    ):
        self._bytes_encoder = bytes_encoder
        super().__init__(model, slots, size, context, alone=True)

    def _compute(self, x: Tensor, state: State, clock: Clock, keyframe: Tensor) -> tuple[Encoded, State]:
        """x (S, 3, G, H, W), keyframe (S,) bool -> tokens and latents (S, C, 1, h, w), the new state."""
        if self._bytes_encoder is None or x.dtype != torch.uint8:
            return super()._compute(x, state, clock, keyframe)
        features, new = self._bytes_encoder(x, state["encoder"], clock)
        coded, held = self.model.quantize(features, x.shape[0], state, clock)
        return Encoded(None if coded.indices is None else coded.indices.int(), coded.latent), {"encoder": new} | held


class InterleavedDecodeStream(DecodeStream):
    """A decoding stream of an interleaved model."""

    def __init__(
        self, model: Tokenizer, slots: int, size: tuple[int, int], context: int, pixel_decoder: PixelDecoder | None
    ):
        self._pixel_decoder = pixel_decoder
        super().__init__(model, slots, size, context, alone=True)

    def _compute(self, x: Tensor, state: State, clock: Clock, keyframe: Tensor) -> tuple[Tensor, State]:
        """Indices (S, 1, h, w) or latents -> frames (S, 3, G, H, W), the new state."""
        if self._pixel_decoder is None:
            return super()._compute(x, state, clock, keyframe)
        z = self.model.post_quant_conv(fold(self.model.read_codes(x)))
        frames, new = self._pixel_decoder(z, state["decoder"], clock)
        return frames, {"decoder": new}


class InterleavedStreams(Streams):
    """Opens streams of a 4x video model on the CPU with interleaved state; the other layers are those of `plain`.

    `source` is the model before the cast, for weights that are scaled before they are rounded. With convolutions
    "winograd", the first and the last convolution include the wavelets. ValueError if the model does not fit.
    """

    def __init__(self, plain: Tokenizer, configuration: EngineConfiguration, source: Tokenizer):
        reason = find_interleaving_obstacle(plain)
        if reason:
            raise ValueError(f"this model has no interleaved form: {reason}; use kernels 'plain'")

        def interleave(module: nn.Module) -> nn.Module | None:
            return InterleavedConv(module) if isinstance(module, FactorizedConv) else None

        fewer, axes = configuration.convolutions == "winograd", plain.axes
        base = use_winograd(plain) if fewer else plain
        modules = {name: exchange_modules(child, interleave) for name, child in base.named_children()}
        super().__init__(plain.with_modules(**modules).eval(), configuration)
        self.bytes_encoder, self.pixel_decoder = None, None
        if plain.config.closed_loop or plain.config.patch_size != PATCH:
            return
        if "encoder" in plain._modules:
            first, wide = plain.encoder.conv_in, source.encoder.conv_in
            assert isinstance(first, FactorizedConv), type(first)  # a video model's, as is that of `source`
            assert isinstance(wide, FactorizedConv), type(wide)
            self.bytes_encoder = BytesEncoder(self.model.encoder, first, wide.spatial.weight, axes, fewer)
        if fewer and "decoder" in plain._modules and isinstance(last := plain.decoder.conv_out, StillConv):
            self.pixel_decoder = PixelDecoder(self.model.decoder, last, axes)

    def open_encoder(self, slots: int, size: tuple[int, int], context: int) -> EncodeStream:
        """As `Streams` says."""
        return InterleavedStream(self.model, slots, size, context, self.bytes_encoder)

    def open_decoder(self, slots: int, size: tuple[int, int], context: int) -> DecodeStream:
        """As `Streams` says."""
        return InterleavedDecodeStream(self.model, slots, size, context, self.pixel_decoder)


def find_interleaving_obstacle(model: Tokenizer) -> str | None:
    """Why a model cannot run interleaved, or None."""
    if not model.config.video or model.config.temporal_resamplings:
        return f"{model.config.name!r} does not step one frame of features at a time"
    return None
