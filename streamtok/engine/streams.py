"""How an engine opens streams: what every kind of engine offers, and streams of PyTorch's own layers.

They behave as `streamtok.model.EncodeStream` and share its snapshots: a snapshot taken under one engine resumes
under any other of the same precision.
"""

from abc import ABC, abstractmethod

from streamtok.engine.compile_cache import compile_step
from streamtok.engine.configuration import EngineConfiguration
from streamtok.model import DecodeStream, EncodeStream, Tokenizer
from streamtok.model.stream import CompileStep
from streamtok.model.tokenizer import StreamEngine


class Streams(StreamEngine, ABC):
    """Opens the streams of a tokenizer as `configuration` says.

    `model` is the tokenizer in that precision and on that device, some of its layers exchanged.
    """

    decode_step: CompileStep | None = None

    def __init__(self, model: Tokenizer, configuration: EngineConfiguration):
        self.model, self.configuration = model, configuration

    @abstractmethod
    def open_encoder(self, slots: int, size: tuple[int, int], context: int) -> EncodeStream:
        """A stream of `slots` cameras of `size` (H, W) that keeps `context` latent steps."""

    def open_decoder(self, slots: int, size: tuple[int, int], context: int) -> DecodeStream:
        """A stream of `slots` sequences of grids of `size` (h, w) that keeps `context` latent steps."""
        return DecodeStream(self.model, slots, size, context, self.decode_step)


class PlainStreams(Streams):
    """Streams of PyTorch's layers, eager or each step through a compiler."""

    def __init__(self, model: Tokenizer, configuration: EngineConfiguration):
        super().__init__(model, configuration)
        self.decode_step = compile_step if configuration.compile else None

    def open_encoder(self, slots: int, size: tuple[int, int], context: int) -> EncodeStream:
        """As `Streams` says."""
        alone = self.configuration.slots_per_step == 1 and not self.configuration.compile
        return EncodeStream(self.model, slots, size, context, self.decode_step, alone)
