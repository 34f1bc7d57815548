"""Applies an engine configuration to a tokenizer: its precision, device, threads and streams.

`tuning` chooses the configuration.
"""

from dataclasses import replace

import torch

from streamtok.engine.compile_cache import use_folder
from streamtok.engine.configuration import EngineConfiguration, EngineError, inspect_machine
from streamtok.engine.cpu.eight_bit import EIGHT_BITS, quantize
from streamtok.engine.cpu.interleaved import InterleavedStreams
from streamtok.engine.cpu.memory import keep_freed_memory
from streamtok.engine.cpu.nnpack import use_nnpack
from streamtok.engine.gpu.graph import check_room
from streamtok.engine.gpu.graph_streams import GraphStreams
from streamtok.engine.streams import Streams
from streamtok.model import EncodeStream, Tokenizer


def apply_configuration(tok: Tokenizer, configuration: EngineConfiguration) -> Tokenizer:
    """The tokenizer on the engine that `configuration` describes, deterministic if either of them is.

    Raises EngineError if the weights do not fit into memory, ValueError for a configuration that cannot run here.
    """
    if isinstance(tok.engine, Streams) and tok.engine.configuration.precision == "int8" != configuration.precision:
        raise ValueError(f"{EIGHT_BITS} and cannot run in {configuration.precision}; load it again")
    if tok.engine is not None or configuration.deterministic:
        tok = tok.with_modules()  # a copy, so that the caller's stays as it is
        tok.deterministic |= configuration.deterministic
    configuration = replace(configuration, deterministic=tok.deterministic)
    if configuration.device == "cuda":
        _prepare_gpu(tok, configuration)
    else:
        keep_freed_memory()
        if configuration.threads:
            torch.set_num_threads(configuration.threads)
    plain = tok.cast(configuration.dtype, configuration.device)
    if configuration.precision == "int8":
        plain = quantize(plain)
    fast = plain.with_modules()
    fast.engine = _choose_streams(plain, tok, configuration)
    return fast


def describe_engine(tokenizer: Tokenizer) -> EngineConfiguration:
    """The configuration that a tokenizer runs with, which decides a latent's last bits; slots_per_step 0 if plain."""
    if isinstance(tokenizer.engine, Streams):
        return tokenizer.engine.configuration
    machine = inspect_machine(tokenizer.fingerprint, (0, 0), tokenizer.device.type)
    precision = str(tokenizer.dtype).removeprefix("torch.")
    return replace(machine, precision=precision, slots_per_step=0, deterministic=tokenizer.deterministic)


def _prepare_gpu(tok: Tokenizer, configuration: EngineConfiguration) -> None:
    """Turn off TF32 and cuDNN's tuning at a start; EngineError without a GPU, or without room for the weights."""
    if not torch.cuda.is_available():
        raise EngineError("the engine configuration is for a GPU and none is here; use engine 'auto' or 'eager'")
    check_room(tok.parameters_count * configuration.dtype.itemsize, f"the weights of {tok.config.name!r}")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False


def _choose_streams(plain: Tokenizer, source: Tokenizer, configuration: EngineConfiguration) -> Streams:
    """The `Streams` of a configuration. `plain` is the tokenizer after the cast, `source` before it."""
    if configuration.kernels == "fused":
        from streamtok.engine.gpu.fused_streams import FusedStreams  # needs triton

        use_folder()
        return FusedStreams(plain, configuration)
    if configuration.kernels == "interleaved":
        return InterleavedStreams(plain, configuration, source)
    if configuration.device == "cuda" and not configuration.compile:
        return GraphStreams(plain, configuration)
    return Streams(use_nnpack(plain) if configuration.convolutions == "nnpack" else plain, configuration)


def memory_needed(tok: Tokenizer, slots: int, size: tuple[int, int]) -> dict[str, int]:
    """Bytes of "weights" (encoder and decoder) and of the "state" of `slots` encoding slots of `size` (H, W), in the
    tokenizer's precision."""
    state = EncodeStream.state_bytes(tok, slots, size, tok.config.context)
    return {"weights": sum(parameter.nbytes for parameter in tok.parameters()), "state": state}
