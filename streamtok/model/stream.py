"""Streams: the one place where state changes.

A stream owns its buffers (fixed size, fixed address), knows slots, reset and snapshot, and advances by one group per
step. Its step function may be replaced by a captured or compiled one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from streamtok.model.frames import (
    NonFiniteError,
    check_dtype,
    check_indices,
    check_latent,
    check_scale,
    to_float,
)
from streamtok.model.state import Clock, StateSpec, flatten, map_state, nbytes

if TYPE_CHECKING:
    from streamtok.model.tokenizer import Tokenizer

Mask = Tensor | Sequence[bool] | Any
Step = Callable[[Tensor, Tensor, Tensor], tuple]


@dataclass(frozen=True)
class Encoded:
    """What frames become: indices int32 (B, T', h, w), image (B, h, w), residual quantizers (B, Q, T', h, w), None for
    continuous models; latent float (B, C, T', h, w), image (B, C, h, w), before quantization."""

    indices: Tensor | None
    latent: Tensor


class _Stream:
    """What both directions share: buffers, masks, reset, snapshot and restore."""

    direction = ""

    def __init__(
        self,
        model: "Tokenizer",
        slots: int,
        size: tuple[int, int],
        context: int,
        compile_step: Callable[[Step], Step] | None = None,
    ):
        if slots < 1 or context < 1:
            raise ValueError(f"slots is {slots} and context {context}, expected at least 1 of each")
        self.model, self.slots, self.size, self.context = model, slots, size, context
        spec = StateSpec(slots, context, model.dtype, model.device)
        with torch.inference_mode(False):  # a stream outlives the block that it is made in
            self.state = self._init(spec)
            self.state["count"] = torch.zeros(slots, dtype=torch.long, device=model.device)
        self.buffers = flatten(self.state)
        self._started = [False] * slots
        self._compiled = compile_step(self.advance) if compile_step else None

    @classmethod
    def state_bytes(cls, model: "Tokenizer", slots: int, size: tuple[int, int], context: int) -> int:
        """Bytes that a stream of this shape will hold, without allocating them."""
        return (
            nbytes(cls._init_for(model, StateSpec(slots, context, model.dtype, torch.device("meta")), size)) + 8 * slots
        )

    @staticmethod
    def _init_for(model: "Tokenizer", spec: StateSpec, size: tuple[int, int]) -> dict:
        raise TypeError("use EncodeStream or DecodeStream")

    def _init(self, spec: StateSpec) -> dict:
        return self._init_for(self.model, spec, self.size)

    @property
    def nbytes(self) -> int:
        """Bytes of state held; constant over the life of the stream."""
        return nbytes(self.state)

    @property
    def slot_by_slot(self) -> bool:
        """Whether a step of several slots runs as one step for each; deterministic mode does."""
        return self.model.deterministic

    @property
    def started(self) -> list[bool]:
        """Which slots have taken their keyframe."""
        return list(self._started)

    # One step.

    def advance(self, x: Tensor, active: Tensor, keyframe: Tensor) -> tuple[Any, Tensor]:
        """Run the model on every slot and move the state of the active, finite ones. Tensor operations only: what an
        engine captures. x (slots, ...), active and keyframe (slots,) bool -> output, moved (slots,) bool."""
        return self._advance_slots(x, active, keyframe, self.state)

    def _advance_slots(self, x: Tensor, active: Tensor, keyframe: Tensor, state: dict) -> tuple[Any, Tensor]:
        count = torch.where(keyframe, 0, state["count"])
        out, new = self._compute(x, state, Clock(count, self.context, active), keyframe)
        moved = active & self._finite(out)
        new["count"] = count + 1
        for name, value in flatten(new).items():
            old = self.buffers[name] if state is self.state else flatten(state)[name]
            if value is not old:
                torch.where(moved.view(-1, *[1] * (old.ndim - 1)), value.to(old.dtype), old, out=old)
        return out, moved

    def _compute(self, x: Tensor, state: dict, clock: Clock, keyframe: Tensor) -> tuple[Any, dict]:
        raise TypeError("use EncodeStream or DecodeStream")

    def _finite(self, out: Any) -> Tensor:
        raise TypeError("use EncodeStream or DecodeStream")

    def _merge(self, outs: list) -> Any:
        raise TypeError("use EncodeStream or DecodeStream")

    def _run(self, x: Tensor, active: list[bool], keyframe: list[bool]) -> Any:
        """Advance, keep the host's view of the slots, and raise for those that were not finite.

        Of these, slots that continued are left as they were, and slots that took a keyframe are left fresh.
        """
        with torch.no_grad():
            out, moved = self._call(x, active, keyframe)
        self._started = [old or new for old, new in zip(self._started, moved, strict=True)]
        bad = [slot for slot in range(self.slots) if active[slot] and not moved[slot]]
        if bad:
            self.reset([slot for slot in bad if keyframe[slot]])
            self._clean([slot for slot in bad if not keyframe[slot]])
            raise NonFiniteError(bad, out)
        return out

    def _call(self, x: Tensor, active: list[bool], keyframe: list[bool]) -> tuple[Any, list[bool]]:
        """The step function, on all slots or one by one -> output, which slots moved."""
        masks = torch.tensor([active, keyframe], dtype=torch.bool, device=self.model.device)
        if self.slots > 1 and self.slot_by_slot:
            out, moved = self._one_by_one(x, masks, active)
        else:
            out, moved = (self._compiled or self.advance)(x, masks[0], masks[1])
        return out, moved.tolist()

    def _one_by_one(self, x: Tensor, masks: Tensor, active: list[bool]) -> tuple[Any, Tensor]:
        """A step of one slot for each active slot, on views of the buffers."""
        outs, moved = [], masks[0].clone()
        for slot in range(self.slots):
            state = map_state(lambda tensor, slot=slot: tensor[slot : slot + 1], self.state)
            row = slice(slot, slot + 1)
            if active[slot]:
                out, moved[row] = self._advance_slots(x[row].contiguous(), masks[0, row], masks[1, row], state)
                outs.append(out)
            else:
                outs.append(None)
        return self._merge(outs), moved

    def _clean(self, slots: list[int]) -> None:
        """Zero the ring entry that a failed step wrote: attention gives it no weight, but zero times NaN is NaN."""
        for name, buffer in self.buffers.items():
            if name.endswith((".key", ".value")):
                for slot in slots:
                    buffer[slot, :, int(self.buffers["count"][slot]) % buffer.shape[2]] = 0

    def _mask(self, mask: Mask | None, name: str, default: bool) -> list[bool]:
        if mask is None:
            return [default] * self.slots
        values = mask.tolist() if hasattr(mask, "tolist") else list(mask)
        if len(values) != self.slots or not all(isinstance(value, bool) for value in values):
            raise ValueError(f"{name} is {values}, expected {self.slots} booleans, one per slot")
        return values

    # Slots.

    def reset(self, slots: Sequence[int] | None = None) -> None:
        """Make slots (default: all) fresh; the others are untouched."""
        for slot in self._slots(slots):
            for buffer in self.buffers.values():
                buffer[slot].zero_()
            self._started[slot] = False

    def snapshot(self, slots: Sequence[int] | None = None) -> dict[str, Any]:
        """A copy of the state of slots (default: all): {"meta": plain values, "tensors": {name: (slots, ...)}}.

        On the CPU, made of plain values and tensors only, so that any safe format stores it.
        """
        chosen = self._slots(slots)
        tensors = {name: buffer[chosen].to("cpu", copy=True).contiguous() for name, buffer in self.buffers.items()}
        return {"meta": self._meta() | {"slots": len(chosen)}, "tensors": tensors}

    def restore(self, snapshot: dict[str, Any], slots: Sequence[int] | None = None) -> None:
        """Put a snapshot back into slots (default: all, in order). ValueError says what differs if it does not fit."""
        chosen = self._slots(slots)
        want, found = self._meta() | {"slots": len(chosen)}, dict(snapshot["meta"])
        differing = [
            f"{key}: {found.get(key)!r} in the snapshot, {value!r} here"
            for key, value in want.items()
            if found.get(key) != value
        ]
        if differing:
            raise ValueError("the snapshot does not fit this stream; " + "; ".join(differing))
        for name, buffer in self.buffers.items():
            buffer[chosen] = snapshot["tensors"][name].to(buffer.device)
        for slot, count in zip(chosen, snapshot["tensors"]["count"].tolist(), strict=True):
            self._started[slot] = count > 0

    def _meta(self) -> dict[str, Any]:
        return {
            "direction": self.direction,
            "model": self.model.config.name,
            "fingerprint": self.model.fingerprint,
            "size": list(self.size),
            "context": self.context,
            "dtype": str(self.model.dtype).removeprefix("torch."),
        }

    def _slots(self, slots: Sequence[int] | None) -> list[int]:
        chosen = list(range(self.slots)) if slots is None else list(slots)
        wrong = [slot for slot in chosen if not isinstance(slot, int) or not 0 <= slot < self.slots]
        if wrong or len(set(chosen)) != len(chosen):
            raise ValueError(f"slots are {chosen}, expected distinct numbers in 0..{self.slots - 1}")
        return chosen


class EncodeStream(_Stream):
    """Frames to tokens, one group per step, for a fixed number of cameras."""

    direction = "encode"

    def __init__(
        self,
        model: "Tokenizer",
        slots: int,
        size: tuple[int, int],
        context: int,
        compile_step: Callable[[Step], Step] | None = None,
    ):
        model.config.grid(*size)
        super().__init__(model, slots, size, context, compile_step)

    @staticmethod
    def _init_for(model: "Tokenizer", spec: StateSpec, size: tuple[int, int]) -> dict:
        return model.init_state(spec, *size)

    def step(self, frames: Tensor, active: Mask | None = None, keyframe: Mask | None = None) -> Encoded:
        """frames (slots, 3, G, H, W) or (slots, 3, 1, H, W) -> indices (slots, 1, h, w), latent (slots, C, 1, h, w).

        uint8, or float in [-1, 1]. Slots marked `keyframe` start afresh from their first frame, others continue; with
        one frame every active slot takes a keyframe. Inactive slots: input ignored, state untouched, output
        unspecified. Raises ValueError or TypeError for what does not fit, and NonFiniteError naming the slots whose
        latent is not finite, with the other slots' output in `error.out`: of these, slots that continued have not
        moved, and slots that took a keyframe are fresh.
        """
        group, running = self.model.group, self._mask(active, "active", True)
        self._check(frames, group)
        if frames.dtype.is_floating_point:
            check_scale(frames if all(running) else frames[torch.tensor(running, device=frames.device)])
        single = frames.shape[2] == 1
        marks = [True] * self.slots if single else self._mask(keyframe, "keyframe", False)
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
        shapes = [(self.slots, 3, count, height, width) for count in sorted({group, 1})]
        if tuple(frames.shape) not in shapes:
            raise ValueError(
                f"frames have shape {tuple(frames.shape)}, expected {' or '.join(map(str, shapes))}: "
                f"(slots, RGB, frames, height, width) of this stream"
            )

    def _compute(self, x: Tensor, state: dict, clock: Clock, keyframe: Tensor) -> tuple[Encoded, dict]:
        coded, new = self.model.encode_groups(to_float(x, self.model.dtype), state, clock)
        return Encoded(None if coded.indices is None else coded.indices.int(), coded.latent), new

    def _finite(self, out: Encoded) -> Tensor:
        return torch.isfinite(out.latent).flatten(1).all(1)

    def _merge(self, outs: list) -> Encoded:
        some = next((out for out in outs if out is not None), None)
        if some is None:
            h, w = self.model.config.grid(*self.size)
            latent = torch.zeros(self.slots, self.model.config.latent_channels, 1, h, w, device=self.model.device)
            return Encoded(
                torch.zeros(self.slots, 1, h, w, dtype=torch.int32) if self.model.config.discrete else None, latent
            )
        rows = [some if out is None else out for out in outs]
        indices = None if some.indices is None else torch.cat([row.indices for row in rows])
        return Encoded(indices, torch.cat([row.latent for row in rows]))


class DecodeStream(_Stream):
    """Tokens to frames, one grid per step, for a fixed number of streams.

    A fresh slot takes the first grid it is given as its keyframe: never feed it one from the middle of an epoch.
    """

    direction = "decode"

    @staticmethod
    def _init_for(model: "Tokenizer", spec: StateSpec, size: tuple[int, int]) -> dict:
        return model.init_decode_state(spec, *size)

    def step(self, tokens: Tensor, active: Mask | None = None, keyframe: Mask | None = None) -> Tensor:
        """Indices (slots, 1, h, w), (slots, Q, 1, h, w) or a latent (slots, C, 1, h, w) -> frames (slots, 3, G, H, W).

        Float in [-1, 1] scale, unclipped. Slots marked `keyframe` start afresh, others continue. Of a keyframe only the
        last frame is meaningful. Tokens of inactive slots are ignored.
        """
        running, marks = self._mask(active, "active", True), self._mask(keyframe, "keyframe", False)
        config = self.model.config
        tokens = self._with_time(tokens)
        idle = [slot for slot in range(self.slots) if not running[slot]]
        if idle and isinstance(tokens, Tensor) and tokens.ndim and tokens.shape[0] == self.slots:
            tokens = tokens.clone()
            for slot in idle:  # what inactive rows hold is nobody's business
                tokens[slot].zero_()
        (check_indices if config.discrete else check_latent)(tokens, config)
        if tokens.shape[0] != self.slots or tuple(tokens.shape[-3:]) != (1, *self.size):
            raise ValueError(
                f"tokens have shape {tuple(tokens.shape)}, expected {self.slots} slots of one ({self.size[0]}, "
                f"{self.size[1]}) grid each: (slots, [channels,] 1, h, w)"
            )
        return self._run(tokens.to(self.model.device), running, marks)

    def _with_time(self, tokens: Tensor) -> Tensor:
        """Accept grids without the T' axis, (slots, h, w)."""
        config = self.model.config
        still = 3 + (not config.discrete or config.quantizer == "residual_fsq")
        return tokens.unsqueeze(-3) if isinstance(tokens, Tensor) and tokens.ndim == still else tokens

    def _compute(self, x: Tensor, state: dict, clock: Clock, keyframe: Tensor) -> tuple[Tensor, dict]:
        return self.model.decode_groups(self.model.codes(x), state, clock)

    def _finite(self, out: Tensor) -> Tensor:
        return torch.isfinite(out).flatten(1).all(1)

    def _merge(self, outs: list) -> Tensor:
        some = next((out for out in outs if out is not None), None)
        if some is None:
            return torch.zeros(
                self.slots, 3, self.model.group, *(self.model.config.spatial_compression * n for n in self.size)
            )
        return torch.cat([some if out is None else out for out in outs])
