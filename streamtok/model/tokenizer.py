"""The tokenizer: whole clips, training and streams over one network."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from streamtok.config import TokenizerConfig
from streamtok.model.decode_stream import DecodeStream
from streamtok.model.encode_stream import Encoded, EncodeStream
from streamtok.model.frames import NonFiniteError, check_dtype, check_indices, check_latent, check_video, to_float
from streamtok.model.network import Network, join_coded
from streamtok.model.quantizer import Variational
from streamtok.model.state import Clock, State, StateSpec
from streamtok.model.stream import CompileStep

Context = int | Literal["model", "all"]  # latent steps that attention sees: so many, the model's own, or all

Out = TypeVar("Out")
Run = Callable[[Tensor, State, Clock], tuple[Out, State]]
MakeState = Callable[[StateSpec, int, int], State]


@dataclass(frozen=True)
class Reconstruction:
    """What training reads: reconstruction (B, 3, T, H, W) in [-1, 1] scale, indices and latent as in `Encoded`, the
    quantizer's auxiliary losses by name (scalars), and the state to carry on with."""

    reconstruction: Tensor
    indices: Tensor | None
    latent: Tensor
    losses: dict[str, Tensor]
    state: State


class Tokenizer(Network):
    """A causal video or image tokenizer of the Cosmos family.

    Frames are (B, 3, T, H, W), uint8 or float in [-1, 1], T = 1 + k * temporal_compression. With `deterministic`, every
    path runs as steps of one slot and one group: tokens are bit-identical for any split and any number of slots.
    """

    def __init__(self, config: TokenizerConfig, deterministic: bool = False):
        super().__init__(config, deterministic)
        self._casts: dict[tuple, Tokenizer] = {}

    # Copies.

    @torch.inference_mode(False)
    def cast(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> "Tokenizer":
        """This model in another precision or on another device; itself where nothing changes, else a kept copy."""
        dtype, device = dtype or self.dtype, torch.device(device or self.device)
        if not dtype.is_floating_point:
            raise TypeError(f"dtype is {dtype}, expected a floating-point one such as torch.float32 or torch.bfloat16")
        if self.holds(dtype, device):
            return self
        key = (dtype, device, sum(parameter._version for parameter in self.parameters()))
        if key not in self._casts:
            modules = copy.deepcopy(dict(self.named_children()))
            model = self.with_modules(**modules).to(device=device, dtype=dtype)
            if device.type != "cpu" or dtype != torch.float32:
                model._use_channels_last()
            self._casts = {key: model}
        return self._casts[key]

    def holds(self, dtype: torch.dtype | None, device: torch.device | str | None) -> bool:
        """Whether the weights are in this precision and on this device already (None: whatever); "cuda" is any GPU."""
        wanted = torch.device(device or self.device)
        there = wanted.type == self.device.type and wanted.index in (None, self.device.index)
        return there and (dtype or self.dtype) == self.dtype

    def with_modules(self, **modules: nn.Module) -> "Tokenizer":
        """This tokenizer with some sub-modules exchanged; it shares the others and keeps its fingerprint."""
        fingerprint, made = self.fingerprint, copy.copy(self)
        made._modules = {**self._modules, **modules}
        made._casts, made._fingerprint = {}, (None, fingerprint)
        return made

    # Whole clips.

    @torch.no_grad()
    def encode(self, x: Tensor, context: Context | None = "model", sample: bool = False) -> Encoded:
        """Frames (B, 3, T, H, W) or (B, 3, H, W) to tokens, as a stream that starts at the first frame would.

        Memory grows with the clip; long videos go through `stream`, which gives the same tokens in constant memory.

        Args:
            x: uint8, or float in [-1, 1].
            context: latent steps that temporal attention sees: a number, "model" (the config's) or "all"; None is all.
            sample: draw from a variational model instead of taking its mean.

        Raises:
            ValueError, TypeError: for sizes, counts and types that do not fit.
            NonFiniteError: (a ValueError) for latents that are not finite.
        """
        check_video(x, self.config)
        still = x.ndim == 4
        groups = self._with_keyframe(to_float(x.unsqueeze(2) if still else x, self.dtype).to(self.device))
        steps, limit = groups.shape[2] // self.group, self._limit(context)
        self._set_sampling(sample)
        try:
            if self.deterministic:
                rows = self._run_by_steps(self.encode_groups, self.init_state, groups, steps, limit)
                coded = join_coded([join_coded(parts, 2) for parts in rows], 0)
            else:
                coded = self._run_at_once(self.encode_groups, self.init_state, groups, steps, limit)
        finally:
            self._set_sampling(False)
        if not torch.isfinite(coded.latent).all():
            bad = (~torch.isfinite(coded.latent).flatten(1).all(1)).nonzero().flatten().tolist()
            raise NonFiniteError(bad, None, "the latent of batch rows")
        indices = None if coded.indices is None else coded.indices.int()
        if still:
            return Encoded(None if indices is None else indices.squeeze(-3), coded.latent.squeeze(2))
        return Encoded(indices, coded.latent)

    @torch.no_grad()
    def decode(self, tokens: Tensor, context: Context | None = "model") -> Tensor:
        """Indices (B, T', h, w) or a continuous latent (B, C, T', h, w) to frames (B, 3, T, H, W), T = 1 + (T' - 1) G.

        Without the T' axis, one image (B, 3, H, W). Any integer dtype. Float in [-1, 1] scale, unclipped. `context` as
        in `encode`. Raises ValueError for tokens out of range or latents that are not finite, TypeError for a wrong
        dtype.
        """
        check = check_indices if self.config.discrete else check_latent
        still = check(tokens, self.config)
        codes = self.read_codes((tokens.unsqueeze(-3) if still else tokens).to(self.device))
        steps, limit = codes.shape[2], self._limit(context)
        if self.deterministic:
            rows = self._run_by_steps(self.decode_groups, self.init_decode_state, codes, steps, limit)
            frames = torch.cat([torch.cat(parts, 2) for parts in rows])
        else:
            frames = self._run_at_once(self.decode_groups, self.init_decode_state, codes, steps, limit)
        frames = frames[:, :, self.group - 1 :]
        return frames.squeeze(2) if still else frames

    def forward(self, x: Tensor, state: State | None = None) -> Reconstruction:
        """Encode and decode with gradients, for training.

        x (B, 3, 1 + kG, H, W) from a fresh start; with the state of an earlier call, x (B, 3, kG, H, W) goes on.
        """
        check_dtype(x)
        x, fresh = to_float(x, self.dtype), state is None
        if x.ndim != 5 or x.shape[1] != 3 or x.shape[2] < 1 or (x.shape[2] - fresh) % self.group:
            raise ValueError(
                f"frames have shape {tuple(x.shape)}, expected (B, 3, T, H, W), T = {'1 + ' * fresh}k * {self.group}"
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

    def _with_keyframe(self, x: Tensor) -> Tensor:
        """Frames (B, 3, 1 + kG, H, W) as groups (B, 3, (1 + k) G, H, W): the first is its frame repeated."""
        return torch.cat([x[:, :, :1].expand(-1, -1, self.group, -1, -1), x[:, :, 1:]], 2)

    def _fresh_state(self, x: Tensor) -> State:
        """The state of encoder and decoder before frames like x (B, 3, T, H, W)."""
        batch, (height, width) = x.shape[0], x.shape[-2:]
        spec = StateSpec(batch, self.config.context, self.dtype, x.device)
        decoder = self.init_decode_state(spec, *self.config.grid(height, width))
        count = torch.zeros(batch, dtype=torch.long, device=x.device)
        return self.init_state(spec, height, width) | decoder | {"count": count}

    def _run_at_once(self, run: Run[Out], init: MakeState, x: Tensor, steps: int, limit: int | None) -> Out:
        """Every row and step of x (B, C, steps * n, H, W) in one call, from a fresh start."""
        keep = min(steps, limit or steps) if self.config.closed_loop else 0  # the others see their past in the call
        state = init(StateSpec(len(x), keep, self.dtype, self.device), *x.shape[-2:])
        return run(x, state, Clock(torch.zeros(len(x), dtype=torch.long, device=self.device), limit))[0]

    def _run_by_steps(
        self, run: Run[Out], init: MakeState, x: Tensor, steps: int, limit: int | None
    ) -> list[list[Out]]:
        """Each row of x (B, C, steps * n, H, W) from a fresh start, step by step: the outputs by row and step."""
        spec, rows = StateSpec(1, limit or steps, self.dtype, self.device), []
        for row in x.split(1):
            state, parts = init(spec, *x.shape[-2:]), []
            for i, part in enumerate(row.split(x.shape[2] // steps, 2)):
                out, state = run(part.contiguous(), state, Clock(torch.full((1,), i, device=self.device), limit))
                parts.append(out)
            rows.append(parts)
        return rows

    def _limit(self, context: Context | None) -> int | None:
        """How many latent steps attention sees; None is unbounded."""
        if context == "model":
            return self.config.context
        if context is None or context == "all":
            return None
        if not isinstance(context, int) or context < 1:
            raise ValueError(f'context is {context!r}, expected at least 1 latent step, "model" or "all"')
        return context

    def stream_context(self, context: Context) -> int:
        """The latent steps that a stream keeps for `context`; ValueError for "all": a stream's memory is fixed."""
        limit = self._limit(context)
        if limit is None:
            raise ValueError(
                f'context is {context!r}: a stream keeps a fixed number of latent steps; say how many, or "model"'
            )
        return limit

    def _set_sampling(self, sample: bool) -> None:
        if isinstance(self.quantizer, Variational):
            self.quantizer.sample = sample
        elif sample:
            raise ValueError(
                f"sample=True needs a variational model, {self.config.name!r} has {self.config.quantizer!r}"
            )

    # Streams.

    def stream(
        self,
        slots: int,
        height: int,
        width: int,
        context: Context = "model",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        compile_step: CompileStep | None = None,
    ) -> EncodeStream:
        """State for `slots` cameras of height x width, stepped one group at a time; see `EncodeStream`.

        Args:
            context: latent steps of attention: a number, or "model" for the config's.
            dtype, device: of the computation, by default the weights'.
            compile_step: takes the eager step function and returns a faster one (see `streamtok.engine`).
        """
        model, size = self.cast(dtype, device), (height, width)
        return EncodeStream(model, slots, size, self.stream_context(context), compile_step)

    def decode_stream(
        self,
        slots: int,
        grid_height: int,
        grid_width: int,
        context: Context = "model",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        compile_step: CompileStep | None = None,
    ) -> DecodeStream:
        """As `stream`, for decoding grids of (grid_height, grid_width); see `DecodeStream`."""
        model, size = self.cast(dtype, device), (grid_height, grid_width)
        return DecodeStream(model, slots, size, self.stream_context(context), compile_step)
