"""Opens the streams of an engine: here on PyTorch's layers, in subclasses on others.

All behave as `streamtok.model.EncodeStream` and share its snapshot format: a snapshot taken under one engine resumes
under any other of the same precision.
"""

from streamtok.engine.compile_cache import compile_step
from streamtok.engine.configuration import EngineConfiguration
from streamtok.model import EncodeStream, Tokenizer
from streamtok.model.tokenizer import StreamEngine


class Streams(StreamEngine):
    """Opens the streams of a tokenizer as `configuration` says, eager or with `torch.compile`."""

    def __init__(self, model: Tokenizer, configuration: EngineConfiguration):
        super().__init__(model, compile_step if configuration.compile else None)
        self.configuration = configuration

    def open_encoder(self, slots: int, size: tuple[int, int], context: int) -> EncodeStream:
        """As `StreamEngine` says."""
        alone = self.configuration.slots_per_step == 1 and not self.configuration.compile
        return EncodeStream(self.model, slots, size, context, self.decode_step, alone)
