"""State as data: a tensor or a dict of states, keyed like the sub-modules that use it.

All zeros is a fresh stream. A convolution's state is its last input frames, (S, P, H, W, C). Attention keeps a
ring of keys and values, (S, H*W, context, C), in which latent step s of a slot lies at s % context. One counter
per slot, `count` (S,), says how many latent steps it has taken; a slot has started when it is not zero.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

State = Any  # a Tensor, or a dict of str to State


@dataclass(frozen=True)
class StateSpec:
    """What a state is allocated with: slots, attention context in latent steps (0: none kept), dtype and device."""

    slots: int
    context: int
    dtype: torch.dtype
    device: torch.device

    def zeros(self, *shape: int) -> Tensor:
        """(S, *shape), all zero."""
        return torch.zeros(self.slots, *shape, dtype=self.dtype, device=self.device)


@dataclass(frozen=True)
class Clock:
    """Where each slot stands when a call begins.

    `context` is how many latent steps attention sees, the current one included. None is unbounded, for whole clips from
    a fresh start only.
    """

    count: Tensor  # (B,) int64: latent steps taken
    context: int | None
    active: Tensor | None = None  # (B,) bool: rows whose state may move, for state that is written in place

    @property
    def started(self) -> Tensor:
        """(B,) bool."""
        return self.count > 0


def flatten(state: State, prefix: str = "") -> dict[str, Tensor]:
    """Nested state -> {"encoder.conv_in": tensor (S, ...), ...}, the tensors in the order in which it holds them."""
    if isinstance(state, Tensor):
        return {prefix: state}
    parts = ((flatten(value, f"{prefix}.{key}" if prefix else key)) for key, value in state.items())
    return {name: tensor for part in parts for name, tensor in part.items()}


def map_state(function: Any, state: State) -> State:
    """The state with `function` applied to every tensor."""
    if isinstance(state, Tensor):
        return function(state)
    return {key: map_state(function, value) for key, value in state.items()}


def detach(state: State) -> State:
    """The state's values without history, to carry a stream from one training step to the next."""
    return map_state(Tensor.detach, state)


def nbytes(state: State) -> int:
    """Bytes of all tensors; works on the meta device, so a size is known before it is allocated."""
    return sum(tensor.numel() * tensor.element_size() for tensor in flatten(state).values())
