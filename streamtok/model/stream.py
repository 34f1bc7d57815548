"""The base of encoding and decoding streams: the only place where state changes.

A stream owns its buffers (fixed size, fixed address), manages slots, reset and snapshots, and advances by one group per
step. An engine may replace its step function by a captured or compiled one.
"""

import functools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from streamtok.model.frames import NonFiniteError
from streamtok.model.network import Network
from streamtok.model.state import Clock, State, StateSpec, flatten, map_state, nbytes

Out = TypeVar("Out")
Mask = Tensor | np.ndarray | Sequence[bool] | bool
Step = Callable[[Tensor, Tensor, Tensor], tuple]
CompileStep = Callable[[Step], Step]


S = TypeVar("S", bound="Stream")
P = ParamSpec("P")
Result = TypeVar("Result")


def exclusive(method: Callable[Concatenate[S, P], Result]) -> Callable[Concatenate[S, P], Result]:
    """Make a method raise RuntimeError while another thread runs one of the stream's: both would change its state."""

    @functools.wraps(method)
    def run(self: S, *args: P.args, **kwargs: P.kwargs) -> Result:
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError(
                f"another thread is using this stream ({method.__name__} was called meanwhile): a stream has one "
                "order of steps; give each thread a stream of its own, or a lock"
            )
        try:
            return method(self, *args, **kwargs)
        finally:
            self._in_use.release()

    return run


def check_sides(size: tuple[int, int], *names: str) -> tuple[int, int]:
    """Both sides as ints; TypeError names one that is no integer, ValueError one that is not positive."""
    for name, side in zip(names, size, strict=True):
        if isinstance(side, bool) or not hasattr(side, "__index__"):
            raise TypeError(f"{name} is {side!r}, expected a whole number such as {name}=int({side!r})")
        if side < 1:
            raise ValueError(f"{name} is {side}, expected at least 1")
    return int(size[0]), int(size[1])


@runtime_checkable
class KeepsPast(Protocol):
    """An engine's layer whose past has a layout of its own, (S, ...), instead of (S, P, H, W, C) as in `layers`."""

    def to_plain(self, past: Tensor, count: Tensor) -> Tensor:
        """The past in the layout of `layers`, (S, P, H, W, C); count (S,) int64: latent steps taken."""

    def from_plain(self, past: Tensor, count: Tensor) -> Tensor:
        """The inverse of `to_plain`, from (S, P, H, W, C)."""


class Stream(ABC, Generic[Out]):
    """Buffers, masks, reset, snapshot and restore, for both directions; a step returns `Out`.

    With `alone`, a step of several slots runs as one step per slot. `compile_step` takes the step function and returns
    a faster one.
    """

    direction: str

    def __init__(
        self,
        model: Network,
        slots: int,
        size: tuple[int, int],
        context: int,
        compile_step: CompileStep | None = None,
        alone: bool = False,
    ):
        slots, context = check_sides((slots, context), "slots", "context")
        size = check_sides(size, "height", "width")
        self.model, self.slots, self.size, self.context = model, slots, size, context
        self.slot_by_slot = alone or model.deterministic
        self._in_use = threading.RLock()
        spec = StateSpec(slots, context, model.dtype, model.device)
        with torch.inference_mode(False):  # the stream may outlive the caller's `inference_mode` block
            self.state = self.make_state(model, spec, size)
            self.state["count"] = torch.zeros(slots, dtype=torch.long, device=model.device)
        self.buffers = flatten(self.state)
        self._started = [False] * slots
        self._compiled = compile_step(self.advance) if compile_step else None

    @staticmethod
    @abstractmethod
    def make_state(model: Network, spec: StateSpec, size: tuple[int, int]) -> State:
        """The model's state for a stream of this size, all zeros."""

    @classmethod
    def state_bytes(cls, model: Network, slots: int, size: tuple[int, int], context: int) -> int:
        """The bytes of state of a stream of this shape, without allocating them."""
        spec = StateSpec(slots, context, model.dtype, torch.device("meta"))
        return nbytes(cls.make_state(model, spec, size)) + 8 * slots  # the counters, int64

    @property
    def nbytes(self) -> int:
        """Bytes of state held; constant over the life of the stream."""
        return nbytes(self.state)

    @property
    def started(self) -> list[bool]:
        """Which slots have taken their keyframe."""
        return list(self._started)

    # One step.

    def advance(self, x: Tensor, active: Tensor, keyframe: Tensor) -> tuple[Out, Tensor]:
        """Run the model on every slot and update the state of those that are active and finite.

        It consists of tensor operations only, so that engines can capture it. x (S, ...), active and keyframe (S,)
        bool -> output, moved (S,) bool.
        """
        return self._advance_slots(x, active, keyframe, self.state)

    def _advance_slots(self, x: Tensor, active: Tensor, keyframe: Tensor, state: State) -> tuple[Out, Tensor]:
        count = torch.where(keyframe, 0, state["count"])
        out, new = self._compute(x, state, Clock(count, self.context, active), keyframe)
        moved = active & self._finite(out)
        new["count"] = count + 1
        olds = flatten(state)
        for name, value in flatten(new).items():
            old = olds[name]
            if value is not old:
                torch.where(moved.view(-1, *[1] * (old.ndim - 1)), value.to(old.dtype), old, out=old)
        return out, moved

    @abstractmethod
    def _compute(self, x: Tensor, state: State, clock: Clock, keyframe: Tensor) -> tuple[Out, State]:
        """The model's step: x (S, ...), keyframe (S,) bool -> output, the new state."""

    @abstractmethod
    def _finite(self, out: Out) -> Tensor:
        """Whether each slot's output is finite, (S,) bool."""

    @abstractmethod
    def _merge(self, outs: list[Out | None]) -> Out:
        """Join outputs of one slot each; None stands for an inactive slot."""

    def _run(self, x: Tensor, active: list[bool], keyframe: list[bool]) -> Out:
        """Advance, update `started` on the host, and raise NonFiniteError for slots that were not finite.

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

    def _call(self, x: Tensor, active: list[bool], keyframe: list[bool]) -> tuple[Out, list[bool]]:
        """Call the step function on all slots at once or one by one -> output, which slots moved."""
        masks = torch.tensor([active, keyframe], dtype=torch.bool, device=self.model.device)
        if self.slots > 1 and self.slot_by_slot:
            out, moved = self._one_by_one(x, masks, active)
        else:
            out, moved = (self._compiled or self.advance)(x, masks[0], masks[1])
        return out, moved.tolist()

    def _one_by_one(self, x: Tensor, masks: Tensor, active: list[bool]) -> tuple[Out, Tensor]:
        """Run a step of one slot for each active slot, on views of the buffers."""
        outs: list[Out | None] = []
        moved = masks[0].clone()
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
        """Zero the KV ring entry that a failed step wrote: attention gives it weight 0, but 0 times NaN is NaN."""
        for name, buffer in self.buffers.items():
            if name.endswith((".key", ".value")):
                for slot in slots:
                    buffer[slot, :, int(self.buffers["count"][slot]) % buffer.shape[2]] = 0

    def _mask(self, mask: Mask | None, name: str, default: bool) -> list[bool]:
        if mask is None:
            return [default] * self.slots
        if isinstance(mask, bool):
            return [mask] * self.slots
        values = mask.tolist() if hasattr(mask, "tolist") else list(mask)
        if len(values) != self.slots or not all(isinstance(value, bool) for value in values):
            raise ValueError(f"{name} is {values}, expected {self.slots} booleans, one per slot, or one for all")
        return values

    # Slots.

    @exclusive
    def reset(self, slots: Sequence[int] | None = None) -> None:
        """Make slots (default: all) fresh; others are untouched."""
        for slot in self._slots(slots):
            for buffer in self.buffers.values():
                buffer[slot].zero_()
            self._started[slot] = False

    @exclusive
    def snapshot(self, slots: Sequence[int] | None = None) -> dict[str, Any]:
        """A copy of the state of slots (default: all): {"meta": plain values, "tensors": {name: (S, ...)}}.

        It is on the CPU, of plain values and tensors only, so that any safe format can store it.
        """
        chosen = self._slots(slots)
        tensors = {name: buffer[chosen].to("cpu", copy=True).contiguous() for name, buffer in self.buffers.items()}
        for name, layer in self._find_keepers().items():
            tensors[name] = layer.to_plain(tensors[name], tensors["count"]).contiguous()
        return {"meta": self._meta() | {"slots": len(chosen)}, "tensors": tensors}

    @exclusive
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
        tensors = dict(snapshot["tensors"])
        for name, layer in self._find_keepers().items():
            tensors[name] = layer.from_plain(tensors[name], tensors["count"])
        for name, buffer in self.buffers.items():
            buffer[chosen] = tensors[name].to(buffer.device)
        for slot, count in zip(chosen, tensors["count"].tolist(), strict=True):
            self._started[slot] = count > 0

    def _find_keepers(self) -> dict[str, KeepsPast]:
        """The layers whose buffers have another layout than snapshots, by name of the buffer."""
        modules = self.model.named_modules()
        return {name: layer for name, layer in modules if name in self.buffers and isinstance(layer, KeepsPast)}

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
