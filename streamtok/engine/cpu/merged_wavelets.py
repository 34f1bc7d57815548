"""The first and the last convolution of a 4x video model with the wavelet merged in: from bytes, and to pixels."""

import torch
from torch import Tensor, nn

from streamtok.engine.cpu.nnpack import exchange_wide
from streamtok.engine.cpu.ring_conv import InterleavedConv, linear
from streamtok.engine.rebuild import copy_conv, copy_module
from streamtok.model.decoder import Decoder
from streamtok.model.encoder import Encoder, StillConv
from streamtok.model.functional import permute_rows
from streamtok.model.layers import FactorizedConv
from streamtok.model.state import Clock, State
from streamtok.model.wavelet import haar_matrix

PATCH = 4  # patch size of the wavelets


class BytesEncoder:
    """An interleaved encoder that reads uint8 frames in groups of four; its weights include the scaling to [-1, 1].

    `wide` is the first convolution's weight before the cast. With `merge`, that convolution includes the wavelet too.
    """

    def __init__(self, encoder: Encoder, first: FactorizedConv, wide: Tensor, axes: str, merge: bool):
        dtype = first.spatial.weight.dtype
        exact = torch.promote_types(dtype, torch.float32)
        weight = wide.detach().to(exact).unflatten(1, (PATCH**3, -1)).transpose(1, 2) / (PATCH**3 * 127.5)
        signs = haar_matrix(PATCH, axes, exact, torch.device("cpu")) * PATCH**3
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
    one rounding in all. If it is None the result is the pixels themselves, -127.5 to 127.5 in float32, in rows.
    """
    batch, colours, _, height, width = frames.shape
    quads = frames.reshape(batch, colours, 4, height // 4, 4, width // 4, 4)
    if haar is None:
        return quads.permute(0, 1, 2, 4, 6, 3, 5).contiguous().float().sub_(127.5).flatten(1, 4)
    pixels = permute_rows(quads, 0, 3, 5, 1, 2, 4, 6).view(-1, 64)
    values = linear(pixels.to(haar[0].dtype), *haar)
    return values.view(batch, height // 4, width // 4, colours * 64).permute(0, 3, 1, 2)


class PixelDecoder:
    """A decoder of groups of four frames whose last convolution includes the inverse wavelet and gives pixels.

    With `fewer`, that convolution is NNPACK's if it is wide.
    """

    def __init__(self, decoder: Decoder, last: StillConv, axes: str, fewer: bool):
        patches = haar_matrix(PATCH, axes, torch.float64, torch.device("cpu")) * PATCH**3  # its own inverse, transposed
        assert last.bias is not None

        def merge(values: Tensor) -> Tensor:
            """Turn a weight or bias that gives bands, (C * 64, ...), into one that gives pixels, float64."""
            bands = values.detach().double().unflatten(0, (PATCH**3, -1))
            return torch.einsum("bc...,bp->cp...", bands, patches).flatten(0, 1)

        conv = copy_conv(last, merge(last.weight), merge(last.bias))
        self.decoder = copy_module(decoder, conv_out=exchange_wide(conv) if fewer else conv)

    def __call__(self, z: Tensor, state: State, clock: Clock) -> tuple[Tensor, State]:
        """z (B, z_channels, h, w) -> frames (B, 3, 4, H, W), float32 or better, and the decoder's new state."""
        cells, state = self.decoder(z, state, clock)
        cells = cells.to(torch.promote_types(cells.dtype, torch.float32))
        batch, channels, h, w = cells.shape
        cells = cells.view(batch, channels // PATCH**3, PATCH, PATCH, PATCH, h, w)
        return cells.permute(0, 1, 2, 5, 3, 6, 4).reshape(batch, -1, PATCH, h * PATCH, w * PATCH), state
