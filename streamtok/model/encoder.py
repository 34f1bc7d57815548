"""The encoder network: wavelet bands to the features that become the latent. `decoder` shares `Level` and `Mid`."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from streamtok.config import TokenizerConfig
from streamtok.model.blocks import Attention, Downsample, ResBlock, Stateless, Upsample, build_attention, module_list
from streamtok.model.layers import FactorizedConv, Norm, SpatialConv
from streamtok.model.state import Clock, State, StateSpec


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by attention if the level has it, then resampling."""

    def __init__(
        self,
        blocks: Sequence[ResBlock],
        attention: Sequence[Attention],
        downsample: Downsample | None = None,
        upsample: Upsample | None = None,
    ):
        super().__init__()
        self.block, self.attn = module_list(blocks), module_list(attention)
        if downsample is not None:
            self.downsample = downsample
        if upsample is not None:
            self.upsample = upsample
        self.resample = "downsample" if downsample is not None else "upsample" if upsample is not None else None

    def init_state(self, spec: StateSpec, height: int, width: int) -> State:
        """States keyed block.N, attn.N and downsample or upsample."""
        lists = (("block", self.block), ("attn", self.attn))
        state = {
            name: {str(i): layer.init_state(spec, height, width) for i, layer in enumerate(part)}
            for name, part in lists
        }
        if self.resample:
            state[self.resample] = getattr(self, self.resample).init_state(spec, height, width)
        return state

    def forward(self, x: Tensor, state: State, clock: Clock) -> tuple[Tensor, State]:
        """x (B*T, C, H, W) -> (B*T', D, H', W')."""
        new: State = {"block": {}, "attn": {}}
        for i, block in enumerate(self.block):
            x, new["block"][str(i)] = block(x, state["block"][str(i)], clock)
            if self.attn:
                x, new["attn"][str(i)] = self.attn[i](x, state["attn"][str(i)], clock)
        if self.resample:
            x, new[self.resample] = getattr(self, self.resample)(x, state[self.resample], clock)
        return x, new


class Mid(nn.Module):
    """Block, attention (if the config has it), block, at the coarsest resolution. x (B*T, C, h, w) -> same."""

    def __init__(self, channels: int, config: TokenizerConfig):
        super().__init__()
        args = (config.num_groups, config.video)
        self.block_1 = ResBlock(channels, channels, *args, config.dropout)
        if config.mid_attention:
            self.attn_1 = build_attention(channels, *args)
        self.block_2 = ResBlock(channels, channels, *args, config.dropout)

    def init_state(self, spec: StateSpec, height: int, width: int) -> State:
        """States keyed like the sub-modules."""
        return {name: getattr(self, name).init_state(spec, height, width) for name, _ in self.named_children()}

    def forward(self, x: Tensor, state: State, clock: Clock) -> tuple[Tensor, State]:
        """x (B*T, C, H, W) -> same."""
        new = {}
        for name, layer in self.named_children():
            x, new[name] = layer(x, state[name], clock)
        return x, new


def build_end_conv(dim_in: int, dim_out: int, mixes_time: bool) -> "EndConv":
    """The first or last convolution of an encoder or decoder: factorized if it mixes time, else 3x3."""
    return FactorizedConv(dim_in, dim_out) if mixes_time else StillConv(dim_in, dim_out, 3, padding=1)


class StillConv(Stateless, SpatialConv):  # type: ignore[misc]
    """The first or last convolution if it mixes space only. x (N, C, H, W) -> (N, D, H, W)."""


EndConv = FactorizedConv | StillConv


class Encoder(nn.Module):
    """Bands (B*T, 192 or 48, H/p, W/p) -> features (B*T', z_channels, h, w)."""

    def __init__(self, config: TokenizerConfig, bands: int):
        super().__init__()
        channels, groups, video = config.encoder_channels, config.num_groups, config.video
        self.conv_in = build_end_conv(bands, config.stem_channels, video)
        levels = []
        last = config.stem_channels
        for i, dim in enumerate(channels):
            dims = [last] + [dim] * config.encoder_blocks[i]
            blocks = [ResBlock(a, b, groups, video, config.dropout) for a, b in pairwise(dims)]
            attentions = [build_attention(dim, groups, video) for _ in blocks] if i in config.attention_levels else []
            spatial, temporal = i < config.spatial_resamplings, i < config.temporal_resamplings
            wanted = (spatial or temporal) and (i < len(channels) - 1 or not video)
            downsample = Downsample(dim, spatial, temporal, video) if wanted else None
            levels.append(Level(blocks, attentions, downsample))
            last = dim
        self.down = module_list(levels)
        self.mid = Mid(last, config) if config.mid else None
        self.norm_out = Norm(last, groups)
        self.conv_out = build_end_conv(last, config.z_channels * config.z_factor, video)
        self.scale = [2 if i < config.spatial_resamplings else 1 for i in range(len(channels))]

    def init_state(self, spec: StateSpec, height: int, width: int) -> State:
        """The state for bands of height x width."""
        state: State = {"conv_in": self.conv_in.init_state(spec, height, width), "down": {}}
        for i, level in enumerate(self.down):
            state["down"][str(i)] = level.init_state(spec, height, width)
            height, width = height // self.scale[i], width // self.scale[i]
        if self.mid is not None:
            state["mid"] = self.mid.init_state(spec, height, width)
        return state | {"conv_out": self.conv_out.init_state(spec, height, width)}

    def forward(self, x: Tensor, state: State, clock: Clock) -> tuple[Tensor, State]:
        """x (B*T, bands, H/p, W/p) -> (B*T', z_factor * z_channels, h, w)."""
        new: State = {"down": {}}
        x, new["conv_in"] = self.conv_in(x, state["conv_in"], clock)
        for i, level in enumerate(self.down):
            x, new["down"][str(i)] = level(x, state["down"][str(i)], clock)
        if self.mid is not None:
            x, new["mid"] = self.mid(x, state["mid"], clock)
        x, new["conv_out"] = self.conv_out(self.norm_out(x), state["conv_out"], clock)
        return x, new
