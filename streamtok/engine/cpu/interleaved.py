"""Kernels "interleaved": 4x video models on a CPU, with temporal convolutions that never copy their past (`ring_conv`).

Bytes are read, and pixels written, by convolutions that include the wavelets (`merged_wavelets`).
"""

import torch
from torch import Tensor, nn

from streamtok.engine.configuration import EngineConfiguration
from streamtok.engine.cpu.merged_wavelets import PATCH, BytesEncoder, PixelDecoder
from streamtok.engine.cpu.nnpack import use_nnpack
from streamtok.engine.cpu.ring_conv import InterleavedConv
from streamtok.engine.rebuild import exchange_modules
from streamtok.engine.streams import Streams
from streamtok.model import DecodeStream, Encoded, EncodeStream, Tokenizer
from streamtok.model.encoder import StillConv
from streamtok.model.layers import FactorizedConv
from streamtok.model.network import fold
from streamtok.model.state import Clock, State


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

    `source` is the model before the cast, for weights that are scaled before they are rounded. The last convolution
    includes the wavelet, with convolutions "nnpack" the first too. ValueError if the model does not fit.
    """

    def __init__(self, plain: Tokenizer, configuration: EngineConfiguration, source: Tokenizer):
        reason = find_interleaving_obstacle(plain)
        if reason:
            raise ValueError(f"this model has no interleaved form: {reason}; use kernels 'plain'")

        def interleave(module: nn.Module) -> nn.Module | None:
            return InterleavedConv(module) if isinstance(module, FactorizedConv) else None

        fewer, axes = configuration.convolutions == "nnpack", plain.axes
        base = use_nnpack(plain) if fewer else plain
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
        if "decoder" in plain._modules and isinstance(last := plain.decoder.conv_out, StillConv):
            self.pixel_decoder = PixelDecoder(self.model.decoder, last, axes, fewer)

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
