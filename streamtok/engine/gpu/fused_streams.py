"""Encoding streams on fused kernels."""

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from streamtok.engine.configuration import EngineConfiguration
from streamtok.engine.gpu.fused import fuse_model
from streamtok.engine.gpu.graph_streams import GraphStream, GraphStreams
from streamtok.engine.gpu.kernels.fsq import fsq_pack
from streamtok.engine.gpu.kernels.haar import haar_bands
from streamtok.engine.gpu.layers import pad_zeros
from streamtok.model import Encoded, EncodeStream, Tokenizer
from streamtok.model.frames import to_float
from streamtok.model.network import unfold
from streamtok.model.quantizer import FSQTables, fsq_tables
from streamtok.model.state import Clock, State
from streamtok.model.wavelet import haar_matrix


class FusedStream(GraphStream):
    """A stream of a model from `fuse_model`: its convolutions keep their past in rings."""

    @cached_property  # computed by the warm-up steps, before a capture
    def _tables(self) -> FSQTables | None:
        """The tables of `fsq_pack`, for an FSQ model."""
        config = self.model.config
        return fsq_tables(config.levels, torch.float32, self.model.device) if config.quantizer == "fsq" else None

    @cached_property
    def _signs(self) -> Tensor | None:
        """The signs of `haar_bands`, (64, 64); None for patches of another size than 4."""
        if self.model.config.patch_size != 4:
            return None
        signs = haar_matrix(4, self.model.axes, torch.float32, torch.device("cpu")) * 64
        return signs.T.half().contiguous().to(self.model.device)

    def _compute(self, x: Tensor, state: State, clock: Clock, keyframe: Tensor) -> tuple[Encoded, State]:
        """x (S, 3, G, H, W), keyframe (S,) bool -> tokens and latents (S, C, 1, h, w), the new state."""
        if x.dtype == torch.uint8 and self._signs is not None:
            padded = haar_bands(x, self._signs, self.model.dtype, edge=1)
        else:
            padded = pad_zeros(self.model.to_bands(to_float(x, self.model.dtype)))
        features, new = self.model.encoder(padded, state["encoder"], clock)
        if self._tables is None or "hold" in state:
            coded, held = self.model.quantize(features.x, x.shape[0], state, clock)
            indices = None if coded.indices is None else coded.indices.int()
            return Encoded(indices, coded.latent), {"encoder": new} | held
        last = self.model.quant_conv  # has few channels: float32 avoids a rounding just before the tokens
        bias = None if last.bias is None else last.bias.float()
        z = F.conv2d(features.x.float(), last.weight.float(), bias)
        indices = fsq_pack(z, self._tables).unflatten(0, (x.shape[0], -1))
        return Encoded(indices, unfold(z, x.shape[0])), {"encoder": new}


class FusedStreams(GraphStreams):
    """`Streams` whose encoders run on fused kernels."""

    def __init__(self, plain: Tokenizer, configuration: EngineConfiguration):
        super().__init__(plain, configuration)
        self.fused = fuse_model(plain, configuration.over_space)

    def open_encoder(self, slots: int, size: tuple[int, int], context: int) -> EncodeStream:
        """As `Streams` says, on fused kernels."""
        return FusedStream(self.fused, slots, size, context, self.configuration, self.pool)
