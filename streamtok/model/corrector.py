"""The corrector: a closed-loop encoder's second look, which changes a draft by what its decoding got wrong.

Iterative amortized inference (Marino, Yue and Mandt 2018, section 3): an encoder that sees the error of its decoded
output finds better latents than one that sees its input alone. Decoders are not affected.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamtok.config import TokenizerConfig
from streamtok.model.encoder import Encoder
from streamtok.model.state import Clock, StateSpec
from streamtok.model.wavelet import haar


class Corrector(nn.Module):
    """An encoder of still images that reads a draft's error, latent and codes. It keeps no state."""

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        self.patch, self.cell = config.patch_size, config.spatial_compression // config.patch_size
        still = replace(config, video=False, temporal_compression=1, predictive=False, refinement=0, corrections=0)
        self.look = Encoder(still, config.patch_channels + 2 * config.latent_channels)
        self.change = nn.Conv2d(config.z_channels * config.z_factor, config.latent_channels, 1)
        for parameter in self.change.parameters():  # an untrained corrector changes nothing
            nn.init.zeros_(parameter)

    def forward(self, error: Tensor, latent: Tensor, codes: Tensor, clock: Clock) -> Tensor:
        """Error of the draft (B, C, G, H, W), its latent and codes (B, D, 1, h, w) -> the latent (B, D, h, w)."""
        latent, codes = latent[:, :, 0], codes[:, :, 0].detach()
        draft = torch.cat([latent.detach(), codes], 1)
        draft = F.interpolate(draft, scale_factor=self.cell, mode="nearest")
        x = torch.cat([haar(error, self.patch, "=thw").to(latent.dtype), draft], 1)
        none = self.look.init_state(StateSpec(len(x), 1, x.dtype, x.device), *x.shape[-2:])
        features, _ = self.look(x, none, clock)
        return latent + self.change(features)
