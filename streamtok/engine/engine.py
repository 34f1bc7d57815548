"""A tokenizer as an engine configuration says: in its precision and on its device, with streams that run on captured
graphs, fused kernels or a compiled step. `tuning` chooses the configuration.
"""

from dataclasses import replace
from typing import Any

import torch

from streamtok.engine.compile_cache import compiled, use_folder
from streamtok.engine.configuration import EngineConfiguration
from streamtok.engine.cpu import InterleavedDecodeStream, InterleavedStream, interleave
from streamtok.engine.graph import EngineError, captured, check_room
from streamtok.engine.streams import EngineStream
from streamtok.model import DecodeStream, EncodeStream, Tokenizer


class OptimizedTokenizer(Tokenizer):
    """What `optimize` returns; `engine` says how it runs."""

    engine: EngineConfiguration

    def cast(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tokenizer:
        """As `Tokenizer.cast`. ValueError in 8 bits: what was rounded away does not come back."""
        if self.engine.precision == "int8" and not self.holds(dtype, device):
            raise ValueError(f"{_EIGHT_BITS}; cast a tokenizer that was loaded without an engine")
        return super().cast(dtype, device)

    def stream(
        self,
        slots: int,
        height: int,
        width: int,
        context: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        compile_step: Any = None,
    ) -> EncodeStream:
        """As `Tokenizer.stream`, on this engine. Another dtype, device or `compile_step` gives a plain stream."""
        if compile_step or not self.holds(dtype, device):
            return super().stream(slots, height, width, context, dtype, device, compile_step)
        model, size = self.__dict__["_for_streams"], (height, width)
        if self.engine.kernels == "fused":
            from streamtok.engine.streams import FusedStream

            return FusedStream(model, slots, size, context or self.config.context, self.engine)
        if self.engine.kernels == "interleaved":
            return InterleavedStream(model, slots, size, context or self.config.context)
        if self.engine.compile:
            return EncodeStream(model, slots, size, context or self.config.context, compiled)
        return EngineStream(model, slots, size, context or self.config.context, self.engine)

    def decode_stream(
        self,
        slots: int,
        grid_height: int,
        grid_width: int,
        context: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        compile_step: Any = None,
    ) -> DecodeStream:
        """As `Tokenizer.decode_stream`, captured or compiled where the engine is."""
        if compile_step is None and self.engine.graph and self.deterministic is False:
            compile_step = captured
        elif compile_step is None and self.engine.compile:
            compile_step = compiled
        size = (grid_height, grid_width)
        if self.engine.kernels == "interleaved" and dtype is device is compile_step is None:
            return InterleavedDecodeStream(self.__dict__["_for_streams"], slots, size, context or self.config.context)
        return DecodeStream(self.cast(dtype, device), slots, size, context or self.config.context, compile_step)


_EIGHT_BITS = "this tokenizer's engine holds its convolutions in 8 bits"


def apply(tok: Tokenizer, configuration: EngineConfiguration) -> OptimizedTokenizer:
    """The tokenizer as `configuration` says, deterministic if either is. EngineError if the weights do not fit,
    ValueError if it cannot run so."""
    if isinstance(tok, OptimizedTokenizer) and tok.engine.precision == "int8" != configuration.precision:
        raise ValueError(f"{_EIGHT_BITS} and cannot run in {configuration.precision}; load it again")
    if configuration.deterministic and not tok.deterministic:
        tok = tok.with_modules()
        tok.deterministic = True
    configuration = replace(configuration, deterministic=tok.deterministic)
    if configuration.device == "cuda":
        if not torch.cuda.is_available():
            raise EngineError("the engine configuration is for a GPU and none is here; use engine 'auto' or 'eager'")
        check_room(tok.parameters_count * configuration.dtype.itemsize, f"the weights of {tok.config.name!r}")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False  # it would choose anew at every start
    if configuration.threads and configuration.device == "cpu":
        torch.set_num_threads(configuration.threads)
    model = tok.cast(configuration.dtype, configuration.device)
    if configuration.precision == "int8":
        from streamtok.engine.eight_bit import quantize

        model = quantize(model)
    made = model.with_modules()
    made.__class__ = _class_for(type(model))
    streams = model
    if configuration.kernels == "fused":
        from streamtok.engine.fused import fuse

        use_folder()
        streams = fuse(model, configuration.over_space)
    if configuration.kernels == "interleaved":
        streams = interleave(model, tok)
    made.__dict__.update(_for_streams=streams, engine=configuration)
    return made  # type: ignore[return-value]


def _class_for(kind: type[Tokenizer]) -> type[Tokenizer]:
    if issubclass(kind, OptimizedTokenizer):
        return kind
    return (
        OptimizedTokenizer if kind is Tokenizer else type(f"Optimized{kind.__name__}", (OptimizedTokenizer, kind), {})
    )


def memory_needed(tok: Tokenizer, slots: int, size: tuple[int, int], context: int | None = None) -> dict[str, int]:
    """Bytes of weights (encoder and decoder) and of the state of `slots` encoding streams, as the tokenizer holds
    them."""
    state = EncodeStream.state_bytes(tok, slots, size, context or tok.config.context)
    return {"weights": sum(parameter.nbytes for parameter in tok.parameters()), "state": state}
