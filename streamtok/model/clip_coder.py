"""Encodes and decodes whole clips in parts that carry state, and normalizes continuous latents by their statistics."""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from streamtok.model.encode_stream import Encoded, check_margin
from streamtok.model.frames import check_clip, check_finite, check_indices, check_latent, to_float
from streamtok.model.network import Network, join_coded
from streamtok.model.quantizer import Variational
from streamtok.model.state import Clock, State, StateSpec

Context = int | Literal["model", "all"]  # latent steps that attention sees: a number, the config's, or all

Out = TypeVar("Out")
Run = Callable[[Tensor, State, Clock], tuple[Out, State]]
MakeState = Callable[[StateSpec, int, int], State]
Cut = Callable[[slice, slice], Tensor]  # (rows of the batch, latent steps) -> that part of a clip
MOST_PIXELS = 1 << 21  # encoded or decoded at once: 18 frames of 256x448


class Extent(NamedTuple):
    """The size of a clip."""

    rows: int  # of the batch
    steps: int  # latent steps
    size: tuple[int, int]  # (height, width) to make its state for
    pixels: int  # of the frames of one latent step of one row


class ClipCoder(Network):
    """A network that encodes and decodes whole clips, with the results that a stream of their groups gives."""

    def encode(
        self,
        x: Tensor,
        context: Context | None = "model",
        sample: bool = False,
        *,
        hold: float = 0.0,
        normalize: bool = False,
        gradients: bool = False,
    ) -> Encoded:
        """Frames (B, C, T, H, W) or (B, C, H, W) to tokens, as a stream that starts at the first frame would.

        A long clip is encoded in parts that carry state, so that only the tokens take memory in proportion to it.

        Args:
            x: uint8, or float in [-1, 1]; C is 3 (RGB) unless the config's `in_channels` says otherwise.
            context: latent steps that temporal attention sees: a number, "model" (the config's) or "all"; None is all.
            sample: draw from a variational model's distribution instead of taking its mean.
            hold: margin in levels, 0 (off) to 1, within which a channel keeps its level of one step before; see
                `EncodeStream.hold`.
            normalize: apply `normalize_latent` to the latent.
            gradients: backpropagate from latent and codes to x and the weights; the clip is then encoded in one part.

        Raises:
            ValueError, TypeError: for sizes, counts and types that do not fit.
            NonFiniteError: (a ValueError) for latents that are not finite.
        """
        check_clip(x, self.config)
        check_margin(hold)
        still = x.ndim == 4
        video = x.unsqueeze(2) if still else x
        rows, _, frames, height, width = video.shape
        extent = Extent(rows, 1 + (frames - 1) // self.group, (height, width), self.group * height * width)
        self._set_sampling(sample)
        try:
            with torch.set_grad_enabled(gradients and torch.is_grad_enabled()):
                cut = partial(self._cut_groups, video)
                init = partial(self._init_holding, hold) if hold else self.init_state
                parts = self._run_clip(self.encode_groups, init, cut, extent, context)
        finally:
            self._set_sampling(False)
        coded = join_coded([join_coded(row, 2) for row in parts], 0)
        check_finite(coded.latent)
        indices = None if coded.indices is None else coded.indices.int()
        latent = self.normalize_latent(coded.latent) if normalize else coded.latent
        if still:
            grid = None if indices is None else indices.squeeze(-3)
            return Encoded(grid, latent.squeeze(2), coded.codes.squeeze(2))
        return Encoded(indices, latent, coded.codes)

    def decode(
        self, tokens: Tensor, context: Context | None = "model", *, normalize: bool = False, gradients: bool = False
    ) -> Tensor:
        """Indices (B, T', h, w), codes or a continuous latent (B, C, T', h, w) to frames (B, 3, T, H, W).

        T is 1 + (T' - 1) G. Tokens without the T' axis give one image (B, 3, H, W). Indices have any integer dtype;
        codes of a discrete model are float, from `codes` or `encode`. Frames are float in [-1, 1] scale, unclipped.

        Args:
            context: as in `encode`.
            normalize: the latent is normalized, as from `encode(..., normalize=True)`.
            gradients: backpropagate from frames to codes or latent and the weights; the clip is decoded in one part.

        Raises:
            ValueError: for tokens out of range or latents that are not finite.
            TypeError: for a wrong dtype.
        """
        with torch.set_grad_enabled(gradients and torch.is_grad_enabled()):
            tokens = self.restore_latent(tokens) if normalize else tokens
            codes = self.codes(tokens)
            still = codes.ndim == 4
            codes = codes.unsqueeze(2) if still else codes
            rows, _, steps, height, width = codes.shape
            pixels = self.group * height * width * self.config.spatial_compression**2
            extent = Extent(rows, steps, (height, width), pixels)

            def cut(rows: slice, part: slice) -> Tensor:
                """Latent steps of the codes -> (rows, C, steps, h, w)."""
                return codes[rows, :, part].contiguous()

            parts = self._run_clip(self.decode_groups, self.init_decode_state, cut, extent, context)
            frames = torch.cat([torch.cat(row, 2) for row in parts])[:, :, self.group - 1 :]
        return frames.squeeze(2) if still else frames

    def codes(self, tokens: Tensor) -> Tensor:
        """Look up what the decoder reads: indices (B, T', h, w) or (B, h, w) -> codes (B, C, T', h, w) or (B, C, h, w).

        Codes of a discrete model, and the latent of a continuous one, are checked and returned. Raises as `decode`.
        """
        real = isinstance(tokens, Tensor) and tokens.dtype.is_floating_point
        coded = real and tokens.ndim in (4, 5) and tokens.shape[1] == self.config.code_channels
        if not self.config.discrete or coded:
            check_latent(tokens, self.config)
            return tokens.to(self.device)
        still = check_indices(tokens, self.config)
        codes = self.read_codes((tokens.unsqueeze(-3) if still else tokens).to(self.device))
        return codes.squeeze(2) if still else codes

    # Statistics of latents.

    def normalize_latent(self, latent: Tensor, first: int = 0) -> Tensor:
        """Normalize a continuous latent (B, C, T', h, w) or (B, C, h, w) by its mean and standard deviation -> same.

        Both come with the checkpoint (`mean_std.pt`, diffusers' `latents_mean`), by channel and latent step. `first` is
        the step at which the latent begins; steps beyond the statistics use their last. ValueError if there are none.
        """
        mean, deviation = self._latent_statistics(latent, first)
        return (latent - mean) / deviation

    def restore_latent(self, latent: Tensor, first: int = 0) -> Tensor:
        """The inverse of `normalize_latent`: (B, C, T', h, w) or (B, C, h, w) -> same."""
        mean, deviation = self._latent_statistics(latent, first)
        return latent * deviation + mean

    def _latent_statistics(self, latent: Tensor, first: int) -> tuple[Tensor, Tensor]:
        config = self.config
        if not config.latents_mean:
            raise ValueError(
                f"{config.name!r} has no mean and deviation of latents: load it from a folder that holds mean_std.pt, "
                "or from a diffusers one with latents_mean and latents_std"
            )
        check_latent(latent, config)
        known = len(config.latents_mean) // config.latent_channels
        steps = torch.arange(first, first + (latent.shape[2] if latent.ndim == 5 else 1)).clamp(max=known - 1)
        shape = (1, -1, len(steps), 1, 1) if latent.ndim == 5 else (1, -1, 1, 1)
        tables = (torch.tensor(part).view(-1, known)[:, steps] for part in (config.latents_mean, config.latents_std))
        mean, deviation = (table.reshape(shape).to(latent.device, latent.dtype) for table in tables)
        return mean, deviation

    def _init_holding(self, margin: float, spec: StateSpec, height: int, width: int) -> State:
        """The fresh state of an encoder with `hold` on; `margin` in levels."""
        hold = self.init_hold(spec, height, width)
        return self.init_state(spec, height, width) | {"hold": hold | {"margin": hold["margin"] + margin}}

    def _with_keyframe(self, x: Tensor) -> Tensor:
        """Frames (B, 3, 1 + kG, H, W) -> groups (B, 3, (1 + k) G, H, W): the first repeats the keyframe."""
        return torch.cat([x[:, :, :1].expand(-1, -1, self.group, -1, -1), x[:, :, 1:]], 2)

    def _cut_groups(self, video: Tensor, rows: slice, part: slice) -> Tensor:
        """The groups of some latent steps, float (rows, C, steps * G, H, W), of a clip (B, C, 1 + kG, H, W)."""
        last = self.group * (part.stop - 1) + 1
        if part.start:
            frames = video[rows, :, last - self.group * (part.stop - part.start) : last]
        else:
            frames = self._with_keyframe(video[rows, :, :last])
        return to_float(frames, self.dtype).to(self.device).contiguous()

    def _run_clip(
        self, run: Run[Out], init: MakeState, cut: Cut, extent: Extent, context: Context | None
    ) -> list[list[Out]]:
        """Run a whole clip from a fresh start; the outputs are in a list of parts for each list of rows.

        A small clip, or one with gradients, runs as one part, a longer one in parts of bounded memory. In deterministic
        mode every row and every step runs alone, as in a stream of one slot.
        """
        limit, steps = self._limit(context), extent.steps
        if self.deterministic:
            batch, length, keep = 1, 1, limit or steps
        else:
            batch = extent.rows
            most = steps if torch.is_grad_enabled() else max(1, MOST_PIXELS // (batch * extent.pixels))
            length = min(most, steps)
            # a clip in one part needs no attention state
            keep = min(steps, limit or steps) if length < steps or self.config.closed_loop else 0
        out = []
        for row in range(0, extent.rows, batch):
            state, parts = init(StateSpec(batch, keep, self.dtype, self.device), *extent.size), []
            for first in range(0, steps, length):
                clock = Clock(torch.full((batch,), first, dtype=torch.long, device=self.device), limit)
                part = cut(slice(row, row + batch), slice(first, min(steps, first + length)))
                made, state = run(part, state, clock)
                parts.append(made)
            out.append(parts)
        return out

    def _limit(self, context: Context | None) -> int | None:
        """How many latent steps attention sees; None is unbounded."""
        if context == "model":
            return self.config.context
        if context is None or context == "all":
            return None
        if not isinstance(context, int) or context < 1:
            raise ValueError(f'context is {context!r}, expected at least 1 latent step, "model" or "all"')
        return context

    def _set_sampling(self, sample: bool) -> None:
        if isinstance(self.quantizer, Variational):
            self.quantizer.sample = sample
        elif sample:
            raise ValueError(
                f"sample=True needs a variational model, {self.config.name!r} has {self.config.quantizer!r}"
            )
