"""Predictive tokenizers: groups are coded relative to the last decoded frame (a closed loop, as in video codecs).

The encoder's state includes the decoder's state and its last frame, the reference. The encoder reads the group and its
difference from the reference. The decoder reads the reference too and adds its bands, each through a learned gate. So
a still scene sharpens group after group.
"""

import torch
from torch import Tensor, nn

from streamtok.config import TokenizerConfig
from streamtok.model.closed_loop import ClosedLoopTokenizer
from streamtok.model.decoder import Decoder, join
from streamtok.model.encoder import Encoder
from streamtok.model.state import Clock, State
from streamtok.model.wavelet import haar


class Prediction(nn.Module):
    """Feeds the reference to the decoder: mixes it into the features, and gives its bands for the gates."""

    def __init__(self, config: TokenizerConfig, dim: int):
        super().__init__()
        self.patch = config.patch_size
        self.mix = nn.Conv2d(config.patch_channels // config.patch_size, dim, 3, padding=1, bias=False)

    def forward(self, x: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, D, H/p, W/p), reference (B, 3, H, W) -> x with the prediction mixed in, its bands (B, R, H/p, W/p)."""
        bands = haar(reference[:, :, None], self.patch, "hw")
        return x + self.mix(bands.to(x.dtype)), bands


class PredictiveTokenizer(ClosedLoopTokenizer):
    """A tokenizer whose tokens say what changed since its last decoded frame.

    `reference_noise` (standard deviation on the [-1, 1] scale) makes training robust against drift.
    """

    def _build(self, config: TokenizerConfig) -> None:
        still = config.patch_channels // config.patch_size
        self.encoder = Encoder(config, config.patch_channels + still)
        self.quant_conv = nn.Conv2d(config.z_channels * config.z_factor, self.quantizer.inputs, 1)
        self.post_quant_conv = nn.Conv2d(config.code_channels, config.z_channels, 1)
        self.decoder = Decoder(config, config.patch_channels + still)
        self.prediction = Prediction(config, self.decoder.fine_channels)
        self.still_bands, self.reference_noise = still, 0.0

    def observe(self, x: Tensor, state: State, clock: Clock) -> Tensor:
        """A group (B, 3, G, H, W) -> its bands, then its still bands less the reference's: (B, bands, H/p, W/p)."""
        bands = haar(x, self.config.patch_size, self.axes)
        reference = started(state["reference"], clock)
        change = bands[:, : self.still_bands] - haar(reference[:, :, None], self.config.patch_size, "hw")
        return torch.cat([bands, change], 1).to(self.dtype)

    def redraw(self, codes: Tensor, state: State, clock: Clock) -> tuple[Tensor, State]:
        """codes (B, C, 1, h, w) -> frames (B, 3, G, H, W), and the new decoder state."""
        reference = started(state["reference"], clock)
        if self.training and self.reference_noise:
            noise = torch.randn_like(reference) * self.reference_noise
            reference = started(reference + noise, clock)
        z = self.post_quant_conv(codes[:, :, 0].to(self.dtype).contiguous(memory_format=torch.channels_last))
        x, coarse = self.decoder.coarse(z, state["decoder"], clock)
        x, predicted = self.prediction(x, reference)
        out, fine = self.decoder.fine(x, state["decoder"], clock)
        out, channels = out.to(predicted.dtype), self.config.patch_channels
        bands, gate = out[:, :channels], out[:, channels:]
        bands[:, : self.still_bands] += torch.sigmoid(gate - 1.0) * predicted
        frames = self.to_pixels(bands, len(codes))
        return frames, {"decoder": join(coarse, fine), "reference": frames[:, :, -1].clamp(-1, 1)}


def started(reference: Tensor, clock: Clock) -> Tensor:
    """The reference (B, 3, H, W), zero in slots that have not decoded anything yet."""
    return torch.where(clock.started.view(-1, 1, 1, 1), reference, 0)
