"""The stateful encoder: `EncodeStream` turns frames into tokens, one group per slot and step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from streamtok.model.frames import check_dtype, check_scale, to_float
from streamtok.model.network import Network
from streamtok.model.state import Clock, State, StateSpec
from streamtok.model.stream import Mask, Stream, exclusive


@dataclass(frozen=True)
class Encoded:
    """The output of encoding; for images all without T'. It unpacks to indices and latent."""

    indices: Tensor | None  # int32 (B, T', h, w), of residual quantizers (B, Q, T', h, w); None for continuous models
    latent: Tensor  # before quantization, float (B, C, T', h, w)
    codes: Tensor | None = None  # after quantization, shaped like the latent; None in streams (see `Tokenizer.codes`)

    @property
    def tokens(self) -> Tensor:
        """What a decoder reads: the indices, or the latent (B, C, T', h, w) of a continuous model."""
        return self.latent if self.indices is None else self.indices

    def __iter__(self) -> Iterator[Tensor | None]:
        return iter((self.indices, self.latent))

    def __getitem__(self, key: object) -> NoReturn:
        raise TypeError(f"[{key!r}] of what encoding gave: its parts have names, such as .indices[{key!r}] or .latent")


def check_margin(margin: float) -> None:
    """ValueError for a `hold` outside 0 to 1."""
    if not 0 <= margin <= 1:
        raise ValueError(f"hold is {margin!r}, expected 0 (off) to 1, in levels of the quantizer")


class EncodeStream(Stream[Encoded]):
    """Encodes frames to tokens, one group per step, for a fixed number of cameras, each in a slot."""

    direction = "encode"

    @staticmethod
    def make_state(model: Network, spec: StateSpec, size: tuple[int, int]) -> State:
        """The encoder's state for frames of `size` (H, W); ValueError for a size that is not on the token grid."""
        model.config.grid(*size)
        return model.init_state(spec, *size)

    @exclusive
    def hold(self, margin: float, slots: Sequence[int] | None = None) -> None:
        """Quantize with hysteresis in slots (default: all): a channel keeps its level of one step before.

        It does while the latent is at most `margin` levels, 0 to 1, outside that level's rounding interval; 0 turns it
        off. Tokens then change less often and cost a token coder less, while pictures lose a little. Set it before the
        first step; afterwards the margin may change from step to step. A keyframe holds nothing; a reset keeps the
        margin. ValueError for other margins and tokenizers, and for a stream that has begun without it.
        """
        check_margin(margin)
        if "hold" not in self.state:
            if any(self._started):
                raise ValueError("this stream has begun without hold: set it before the first step, or after a reset")
            spec = StateSpec(self.slots, self.context, self.model.dtype, self.model.device)
            with torch.inference_mode(False):
                self.state["hold"] = self.model.init_hold(spec, *self.size)
            self.buffers["hold.levels"] = self.state["hold"]["levels"]
        self.state["hold"]["margin"][self._slots(slots)] = margin

    @exclusive
    def step(self, frames: Tensor, active: Mask | None = None, keyframe: Mask | None = None) -> Encoded:
        """frames (S, C, G, H, W) or (S, C, 1, H, W) -> indices (S, 1, h, w), latent (S, C, 1, h, w).

        Frames are uint8, or float in [-1, 1]. Slots marked `keyframe` start afresh from their first frame, others
        continue; given one frame, every active slot takes a keyframe. Inactive slots: input ignored, state untouched,
        output unspecified. Raises ValueError or TypeError for what does not fit. NonFiniteError names the slots whose
        latent is not finite, with the other slots' output in `error.out`. Those that continued have not moved; those
        that took a keyframe are fresh.
        """
        group, running = self.model.group, self._mask(active, "active", True)
        self._check(frames, group)
        single = frames.shape[2] == 1
        marks = [True] * self.slots if single else self._mask(keyframe, "keyframe", False)
        if frames.dtype.is_floating_point:
            seen = frames if all(running) else frames[torch.tensor(running, device=frames.device)]
            check_scale(seen, begins=any(marks))
        cold = [i for i in range(self.slots) if running[i] and not marks[i] and not self._started[i]]
        if cold:
            raise ValueError(
                f"slots {cold} are fresh and got a group of {group} frames without a keyframe; mark them in `keyframe` "
                "or give them a single frame first"
            )
        x = frames.to(self.model.device, non_blocking=True)
        if single:
            x = x.expand(-1, -1, group, -1, -1)
        elif any(marks):
            mask = torch.tensor(marks, device=x.device).view(-1, 1, 1, 1, 1)
            x = torch.where(mask, x[:, :, :1], x)
        return self._run(x, running, marks)

    def _check(self, frames: Tensor, group: int) -> None:
        check_dtype(frames)
        height, width = self.size
        channels = self.model.config.in_channels
        shapes = [(self.slots, channels, count, height, width) for count in sorted({group, 1})]
        if tuple(frames.shape) not in shapes:
            raise ValueError(
                f"frames have shape {tuple(frames.shape)}, expected {' or '.join(map(str, shapes))}: "
                f"(slots, {'RGB' if channels == 3 else 'channels'}, frames, height, width) of this stream"
            )

    def _meta(self) -> dict[str, Any]:
        return super()._meta() | ({"hold": True} if "hold" in self.state else {})

    def _compute(self, x: Tensor, state: State, clock: Clock, keyframe: Tensor) -> tuple[Encoded, State]:
        coded, new = self.model.encode_groups(to_float(x, self.model.dtype), state, clock)
        return Encoded(None if coded.indices is None else coded.indices.int(), coded.latent), new

    def _finite(self, out: Encoded) -> Tensor:
        return torch.isfinite(out.latent).flatten(1).all(1)

    def _merge(self, outs: list[Encoded | None]) -> Encoded:
        some = next((out for out in outs if out is not None), None)
        if some is None:
            h, w = self.model.config.grid(*self.size)
            latent = torch.zeros(self.slots, self.model.config.latent_channels, 1, h, w, device=self.model.device)
            indices = torch.zeros(self.slots, 1, h, w, dtype=torch.int32) if self.model.config.discrete else None
            return Encoded(indices, latent)
        rows = [some if out is None else out for out in outs]
        grids = [row.indices for row in rows if row.indices is not None]
        return Encoded(torch.cat(grids) if grids else None, torch.cat([row.latent for row in rows]))
