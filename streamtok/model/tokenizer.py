"""The tokenizer, the library's main class: encodes and decodes whole clips, trains, and opens streams."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from streamtok.config import TokenizerConfig
from streamtok.model.clip_coder import ClipCoder, Context
from streamtok.model.decode_stream import DecodeStream
from streamtok.model.encode_stream import EncodeStream
from streamtok.model.frames import check_dtype, to_float
from streamtok.model.state import Clock, State, StateSpec
from streamtok.model.stream import CompileStep

__all__ = ["Context", "Reconstruction", "StreamEngine", "Tokenizer"]


@dataclass(frozen=True)
class Reconstruction:
    """The output of `forward`, for training; indices and latent are as in `Encoded`."""

    reconstruction: Tensor  # (B, 3, T, H, W) on the [-1, 1] scale
    indices: Tensor | None
    latent: Tensor
    losses: dict[str, Tensor]  # the quantizer's auxiliary losses by name, scalars
    state: State  # to continue with


class StreamEngine:
    """Opens the streams of a tokenizer; subclasses in `streamtok.engine` open them on faster layers.

    `model` is the tokenizer in the engine's precision and on its device, with some layers exchanged. `decode_step`
    compiles or captures the step of decoding streams, also of a cast model.
    """

    def __init__(self, model: "Tokenizer", decode_step: CompileStep | None = None):
        self.model, self.decode_step = model, decode_step

    def open_encoder(self, slots: int, size: tuple[int, int], context: int) -> EncodeStream:
        """Open a stream of `slots` cameras of `size` (H, W) that keeps `context` latent steps."""
        return EncodeStream(self.model, slots, size, context)

    def open_decoder(self, slots: int, size: tuple[int, int], context: int) -> DecodeStream:
        """Open a stream of `slots` sequences of grids of `size` (h, w) that keeps `context` latent steps."""
        return DecodeStream(self.model, slots, size, context, self.decode_step)


class Tokenizer(ClipCoder):
    """A causal video or image tokenizer of the Cosmos family.

    Frames are (B, C, T, H, W), uint8 or float in [-1, 1], T = 1 + k * temporal_compression, C = 3 for RGB. With
    `deterministic`, every path runs as steps of one slot and one group: tokens are bit-identical for any split and any
    number of slots. Whole clips run on its own layers, streams on its `engine` if it has one.
    """

    engine: StreamEngine | None = None

    def __init__(self, config: TokenizerConfig, deterministic: bool = False):
        super().__init__(config, deterministic)
        self._casts: dict[tuple, Tokenizer] = {}

    # Copies.

    @torch.inference_mode(False)
    def cast(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> "Tokenizer":
        """This model in another precision or on another device: itself if nothing changes, else a cached copy."""
        dtype, device = dtype or self.dtype, torch.device(device or self.device)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise TypeError(f"dtype is {dtype!r}, expected a floating-point one such as torch.bfloat16")
        if self.holds(dtype, device):
            return self
        key = (dtype, device, self.stamp)
        if key not in self._casts:
            modules = copy.deepcopy(dict(self.named_children()))
            model = self.with_modules(**modules).to(device=device, dtype=dtype)
            if device.type != "cpu" or dtype != torch.float32:
                model._use_channels_last()
            self._casts = {key: model}
        return self._casts[key]

    def holds(self, dtype: torch.dtype | None, device: torch.device | str | None) -> bool:
        """Whether the weights already have this precision and device (None: any); "cuda" means any GPU."""
        wanted = torch.device(device or self.device)
        there = wanted.type == self.device.type and wanted.index in (None, self.device.index)
        return there and (dtype or self.dtype) == self.dtype

    def with_modules(self, **modules: nn.Module) -> "Tokenizer":
        """A copy without engine, with sub-modules exchanged; it shares the others and keeps the fingerprint."""
        fingerprint, made = self.fingerprint, copy.copy(self)
        made._modules, made.engine = {**self._modules, **modules}, None
        made._casts, made._fingerprints = {}, {None: (None, fingerprint)}
        return made

    # Training.

    def forward(self, x: Tensor, state: State | None = None) -> Reconstruction:
        """Encode and decode with gradients, for training.

        x (B, 3, 1 + kG, H, W) starts fresh; given the state of an earlier call, x (B, 3, kG, H, W) continues it.
        """
        check_dtype(x)
        x, fresh = to_float(x, self.dtype), state is None
        channels = self.config.in_channels
        if x.ndim != 5 or x.shape[1] != channels or x.shape[2] < 1 or (x.shape[2] - fresh) % self.group:
            raise ValueError(
                f"frames have shape {tuple(x.shape)}, expected (B, {channels}, T, H, W), "
                f"T = {'1 + ' * fresh}k * {self.group}"
            )
        if state is None:
            x, state = self._with_keyframe(x), self._fresh_state(x)
        clock = Clock(state["count"], self.config.context)
        coded, encoded = self.encode_groups(x, state, clock)
        frames = coded.frames
        decoded: State = {}
        if frames is None:
            frames, decoded = self.decode_groups(coded.codes, state, clock)
        new = encoded | decoded | {"count": state["count"] + coded.latent.shape[2]}
        frames = frames[:, :, self.group - 1 :] if fresh else frames
        return Reconstruction(frames, coded.indices, coded.latent, coded.losses, new)

    def _fresh_state(self, x: Tensor) -> State:
        """The fresh state of encoder and decoder for frames like x (B, 3, T, H, W)."""
        batch, (height, width) = x.shape[0], x.shape[-2:]
        spec = StateSpec(batch, self.config.context, self.dtype, x.device)
        decoder = self.init_decode_state(spec, *self.config.grid(height, width))
        count = torch.zeros(batch, dtype=torch.long, device=x.device)
        return self.init_state(spec, height, width) | decoder | {"count": count}

    # Streams.

    def stream_context(self, context: Context) -> int:
        """The latent steps that a stream keeps for `context`; ValueError for "all", because its memory is fixed."""
        limit = self._limit(context)
        if limit is None:
            raise ValueError(
                f'context is {context!r}: a stream keeps a fixed number of latent steps; say how many, or "model"'
            )
        return limit

    def stream(
        self,
        slots: int,
        height: int,
        width: int,
        context: Context = "model",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> EncodeStream:
        """Open a stream of `slots` cameras of height x width, stepped one group at a time; see `EncodeStream`.

        Args:
            context: latent steps that attention sees: a number, or "model" for the config's.
            dtype: of the computation, by default the weights'.
            device: of the computation, by default the weights'.
        """
        model, keep = self.cast(dtype, device), self.stream_context(context)
        return (model.engine or StreamEngine(model)).open_encoder(slots, (height, width), keep)

    def decode_stream(
        self,
        slots: int,
        grid_height: int,
        grid_width: int,
        context: Context = "model",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> DecodeStream:
        """Open a stream that decodes grids of (grid_height, grid_width); else as `stream`. See `DecodeStream`."""
        model, keep = self.cast(dtype, device), self.stream_context(context)
        engine = model.engine or StreamEngine(model, self.engine.decode_step if self.engine else None)
        return engine.open_decoder(slots, (grid_height, grid_width), keep)
