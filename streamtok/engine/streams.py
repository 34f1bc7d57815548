"""How an engine opens streams: what every kind of engine offers, and streams of PyTorch's own layers.

They behave as `streamtok.model.EncodeStream` and share its snapshots: a snapshot taken under one engine resumes
under any other of the same precision.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from streamtok.model import DecodeStream, EncodeStream, Tokenizer
from streamtok.model.network import Network
from streamtok.model.stream import CompileStep


class Streams(ABC):
    """Opens the streams of one tokenizer on one engine.

    `plain` has PyTorch's layers, in the engine's precision and on its device; `decode_step` makes the step of a
    decoding stream fast, whatever its precision.
    """

    plain: Tokenizer
    decode_step: CompileStep | None = None

    @abstractmethod
    def open_encoder(self, slots: int, size: tuple[int, int], context: int) -> EncodeStream:
        """A stream of `slots` cameras of `size` (H, W) that keeps `context` latent steps."""

    def open_decoder(self, slots: int, size: tuple[int, int], context: int) -> DecodeStream:
        """A stream of `slots` sequences of grids of `size` (h, w) that keeps `context` latent steps."""
        return DecodeStream(self.plain, slots, size, context, self.decode_step)


class EngineStream(EncodeStream):
    """An encoding stream that steps slot by slot if `slots_per_step` is 1, else all of its slots at once."""

    def __init__(self, model: Network, slots: int, size: tuple[int, int], context: int, slots_per_step: int):
        self._alone = slots_per_step == 1
        super().__init__(model, slots, size, context)

    @property
    def slot_by_slot(self) -> bool:
        """As `slots_per_step` says; always in deterministic mode."""
        return self.model.deterministic or self._alone


@dataclass(frozen=True)
class PlainStreams(Streams):
    """Streams of `model`, `plain` or a copy with other convolutions: eager, or each step through a compiler."""

    plain: Tokenizer
    model: Tokenizer
    slots_per_step: int
    decode_step: CompileStep | None = None

    def open_encoder(self, slots: int, size: tuple[int, int], context: int) -> EncodeStream:
        """As `Streams` says."""
        if self.decode_step is not None:
            return EncodeStream(self.model, slots, size, context, self.decode_step)
        return EngineStream(self.model, slots, size, context, self.slots_per_step)

    def open_decoder(self, slots: int, size: tuple[int, int], context: int) -> DecodeStream:
        """As `Streams` says."""
        return DecodeStream(self.model, slots, size, context, self.decode_step)


@runtime_checkable
class KeepsPast(Protocol):
    """A layer that keeps its past in a form of its own, (S, ...), and the plain form (S, P, H, W, C)."""

    def to_plain(self, past: Tensor, count: Tensor) -> Tensor:
        """The past as PyTorch's layers keep it, (S, P, H, W, C); count (S,) int64: latent steps taken."""

    def from_plain(self, past: Tensor, count: Tensor) -> Tensor:
        """The inverse of `to_plain`, from (S, P, H, W, C)."""


class PlainSnapshots:
    """Snapshots in the plain form, for streams with layers of the kind `KeepsPast`."""

    model: Network

    def _to_plain(self, name: str, past: Tensor, count: Tensor) -> Tensor:
        """past (S, ...), count (S,) -> (S, P, H, W, C); the past of any other layer stays as it is."""
        layer = find_module(self.model, name)
        return layer.to_plain(past, count).contiguous() if isinstance(layer, KeepsPast) else past

    def _from_plain(self, name: str, past: Tensor, count: Tensor) -> Tensor:
        """The inverse of `_to_plain`, from (S, P, H, W, C)."""
        layer = find_module(self.model, name)
        return layer.from_plain(past, count) if isinstance(layer, KeepsPast) else past


def find_module(model: nn.Module, name: str) -> nn.Module | None:
    """The sub-module whose state has this name, or None: some states are no module's."""
    found: nn.Module | None = model
    for part in name.split("."):
        found = found._modules.get(part) if found is not None else None
    return found
