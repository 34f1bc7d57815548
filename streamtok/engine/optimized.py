"""A tokenizer as an engine configuration says: in its precision and on its device, with the engine's streams.

`tuning` chooses the configuration.
"""

from dataclasses import replace

import torch
from torch import nn

from streamtok.engine.compile_cache import compile_step, use_folder
from streamtok.engine.configuration import EngineConfiguration, EngineError
from streamtok.engine.cpu.eight_bit import quantize
from streamtok.engine.cpu.interleaved import InterleavedStreams
from streamtok.engine.cpu.winograd import use_winograd
from streamtok.engine.gpu.graph import check_room
from streamtok.engine.gpu.graph_streams import GraphStreams
from streamtok.engine.streams import PlainStreams, Streams
from streamtok.model import DecodeStream, EncodeStream, Tokenizer
from streamtok.model.network import Coded
from streamtok.model.state import Clock, State, StateSpec
from streamtok.model.stream import CompileStep

_EIGHT_BITS = "this tokenizer's engine holds its convolutions in 8 bits"


class OptimizedTokenizer(Tokenizer):
    """A tokenizer on an engine; `engine` says how it runs.

    Whole clips run on the plain layers of `streams`, in the engine's precision and on its device; streams are those
    that it opens.
    """

    def __init__(self, streams: Streams, engine: EngineConfiguration):
        nn.Module.__init__(self)  # the modules are those of the plain tokenizer: nothing is built
        plain = streams.plain
        self._modules = dict(plain._modules)
        self.config, self.deterministic, self.axes = plain.config, plain.deterministic, plain.axes
        self._casts, self._fingerprint, self.known_as = {}, (None, plain.fingerprint), plain.known_as
        self.streams, self.engine, self.training = streams, engine, plain.training

    def cast(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tokenizer:
        """As `Tokenizer.cast`. ValueError in 8 bits: what was rounded away does not come back."""
        if self.holds(dtype, device):
            return self
        if self.engine.precision == "int8":
            raise ValueError(f"{_EIGHT_BITS}; cast a tokenizer that was loaded without an engine")
        return self.streams.plain.cast(dtype, device)

    def with_modules(self, **modules: nn.Module) -> Tokenizer:
        """As `Tokenizer.with_modules`, without the engine."""
        return self.streams.plain.with_modules(**modules)

    def init_state(self, spec: StateSpec, height: int, width: int) -> State:
        """As `Network.init_state`."""
        return self.streams.plain.init_state(spec, height, width)

    def init_decode_state(self, spec: StateSpec, grid_height: int, grid_width: int) -> State:
        """As `Network.init_decode_state`."""
        return self.streams.plain.init_decode_state(spec, grid_height, grid_width)

    def encode_groups(self, x: torch.Tensor, state: State, clock: Clock) -> tuple[Coded, State]:
        """x (B, 3, nG, H, W) float -> n latent steps, and the new state."""
        return self.streams.plain.encode_groups(x, state, clock)

    def decode_groups(self, codes: torch.Tensor, state: State, clock: Clock) -> tuple[torch.Tensor, State]:
        """codes (B, C, n, h, w) -> frames (B, 3, nG, H, W) in [-1, 1] scale, and the new state."""
        return self.streams.plain.decode_groups(codes, state, clock)

    def read_codes(self, tokens: torch.Tensor) -> torch.Tensor:
        """Indices (B, n, h, w) or a latent (B, C, n, h, w) -> codes (B, C, n, h, w), as the plain layers read them."""
        return self.streams.plain.read_codes(tokens)

    def _open_encoder(
        self, model: Tokenizer, slots: int, size: tuple[int, int], context: int, compile_step: CompileStep | None
    ) -> EncodeStream:
        """A stream of this engine; a cast, or a step that is compiled otherwise, gives a plain one."""
        if model is self and compile_step is None:
            return self.streams.open_encoder(slots, size, context)
        return super()._open_encoder(model, slots, size, context, compile_step)

    def _open_decoder(
        self, model: Tokenizer, slots: int, size: tuple[int, int], context: int, compile_step: CompileStep | None
    ) -> DecodeStream:
        """As `_open_encoder`; that of a cast is captured or compiled where the engine is."""
        if model is self and compile_step is None:
            return self.streams.open_decoder(slots, size, context)
        return super()._open_decoder(model, slots, size, context, compile_step or self.streams.decode_step)


def apply_configuration(tok: Tokenizer, configuration: EngineConfiguration) -> OptimizedTokenizer:
    """The tokenizer on the engine that `configuration` describes, deterministic if either of them is.

    Raises EngineError if the weights do not fit into memory, ValueError for a configuration that cannot run here.
    """
    if isinstance(tok, OptimizedTokenizer):
        if tok.engine.precision == "int8" != configuration.precision:
            raise ValueError(f"{_EIGHT_BITS} and cannot run in {configuration.precision}; load it again")
        tok = tok.streams.plain
    if configuration.deterministic and not tok.deterministic:
        tok = tok.with_modules()
        tok.deterministic = True
    configuration = replace(configuration, deterministic=tok.deterministic)
    if configuration.device == "cuda":
        _prepare_gpu(tok, configuration)
    if configuration.threads and configuration.device == "cpu":
        torch.set_num_threads(configuration.threads)
    plain = tok.cast(configuration.dtype, configuration.device)
    if configuration.precision == "int8":
        plain = quantize(plain)
    return OptimizedTokenizer(_choose_streams(plain, tok, configuration), configuration)


def _prepare_gpu(tok: Tokenizer, configuration: EngineConfiguration) -> None:
    """EngineError without a GPU or room on it; float32 becomes float32, and nothing is tuned at a start."""
    if not torch.cuda.is_available():
        raise EngineError("the engine configuration is for a GPU and none is here; use engine 'auto' or 'eager'")
    check_room(tok.parameters_count * configuration.dtype.itemsize, f"the weights of {tok.config.name!r}")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False


def _choose_streams(plain: Tokenizer, source: Tokenizer, configuration: EngineConfiguration) -> Streams:
    """What opens the streams; `source` is the model before it was cast."""
    if configuration.kernels == "fused":
        from streamtok.engine.gpu.fused_streams import FusedStreams  # needs triton

        use_folder()
        return FusedStreams(plain, configuration)
    winograd = configuration.convolutions == "winograd"
    if configuration.kernels == "interleaved":
        return InterleavedStreams(plain, source, winograd)
    if configuration.device == "cuda" and not configuration.compile:
        return GraphStreams(plain, configuration)
    model = use_winograd(plain) if winograd else plain
    return PlainStreams(plain, model, configuration.slots_per_step, compile_step if configuration.compile else None)


def memory_needed(tok: Tokenizer, slots: int, size: tuple[int, int]) -> dict[str, int]:
    """Bytes of weights (encoder and decoder) and of the state of `slots` encoding streams of `size` (H, W), as the
    tokenizer holds them."""
    state = EncodeStream.state_bytes(tok, slots, size, tok.config.context)
    return {"weights": sum(parameter.nbytes for parameter in tok.parameters()), "state": state}
