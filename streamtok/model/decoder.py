"""The decoder network: latent features to wavelet bands."""

from itertools import pairwise

from torch import Tensor, nn

from streamtok.config import TokenizerConfig
from streamtok.model.blocks import ResBlock, Upsample, build_attention, module_list
from streamtok.model.encoder import Level, Mid, build_end_conv
from streamtok.model.layers import Norm
from streamtok.model.state import Clock, State, StateSpec


class Decoder(nn.Module):
    """Features (B*T', z_channels, h, w) -> bands (B*T, bands, H/p, W/p).

    It has two halves, `coarse` and `fine`: a predictive model mixes its reference in between.
    """

    def __init__(self, config: TokenizerConfig, bands: int):
        super().__init__()
        channels, groups, video = config.decoder_channels, config.num_groups, config.video
        last = channels[-1]
        self.conv_in = build_end_conv(config.z_channels, last, video)
        self.mid = Mid(last, config) if config.mid else None
        self.resamples = [config.upsampling(i) for i in range(len(channels))]
        levels: list[Level] = []
        for i in reversed(range(len(channels))):
            dims = [last] + [channels[i]] * config.decoder_blocks[i]
            blocks = [ResBlock(a, b, groups, video, config.dropout) for a, b in pairwise(dims)]
            if i == 0:
                self.fine_channels = last  # that enter the finest level
            last = channels[i]
            attentions = [build_attention(last, groups, video) for _ in blocks] if i in config.attention_levels else []
            upsample = None
            if any(self.resamples[i]):
                wide, last = last, channels[i - 1] if config.slim else last
                upsample = Upsample(wide, last, *self.resamples[i], video, config.slim)
            levels.insert(0, Level(blocks, attentions, upsample=upsample))
        self.up = module_list(levels)
        self.norm_out = Norm(channels[0], groups)
        self.conv_out = build_end_conv(channels[0], bands, video and not config.slim)

    def init_state(self, spec: StateSpec, height: int, width: int) -> State:
        """The state for a latent of height x width."""
        state: State = {"conv_in": self.conv_in.init_state(spec, height, width), "up": {}}
        if self.mid is not None:
            state["mid"] = self.mid.init_state(spec, height, width)
        for i in reversed(range(len(self.up))):
            state["up"][str(i)] = self.up[i].init_state(spec, height, width)
            scale = 2 if self.resamples[i][0] else 1
            height, width = height * scale, width * scale
        return state | {"conv_out": self.conv_out.init_state(spec, height, width)}

    def coarse(self, x: Tensor, state: State, clock: Clock) -> tuple[Tensor, State]:
        """Everything before the finest level. x (B*T', z_channels, h, w) -> (B*T, D, H/p, W/p)."""
        new: State = {"up": {}}
        x, new["conv_in"] = self.conv_in(x, state["conv_in"], clock)
        if self.mid is not None:
            x, new["mid"] = self.mid(x, state["mid"], clock)
        for i in reversed(range(1, len(self.up))):
            x, new["up"][str(i)] = self.up[i](x, state["up"][str(i)], clock)
        return x, new

    def fine(self, x: Tensor, state: State, clock: Clock) -> tuple[Tensor, State]:
        """The finest level and the last convolution. x (B*T, D, H/p, W/p) -> (B*T, bands, H/p, W/p)."""
        x, level = self.up[0](x, state["up"]["0"], clock)
        x, conv_out = self.conv_out(self.norm_out(x), state["conv_out"], clock)
        return x, {"up": {"0": level}, "conv_out": conv_out}

    def forward(self, x: Tensor, state: State, clock: Clock) -> tuple[Tensor, State]:
        """x (B*T', z_channels, h, w) -> (B*T, bands, H/p, W/p)."""
        x, coarse = self.coarse(x, state, clock)
        x, fine = self.fine(x, state, clock)
        return x, join(coarse, fine)


def join(coarse: State, fine: State) -> State:
    """The states of the two halves as one."""
    return coarse | fine | {"up": coarse["up"] | fine["up"]}
