"""Counts a model's FLOPs, parameters, state and bit rate without running it, for `streamtok models`."""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from streamtok.config import PRESETS
from streamtok.model import DecodeStream, EncodeStream, build
from streamtok.model.state import Clock, StateSpec
from streamtok.model.tokenizer import Tokenizer


def group_flops(model: Tokenizer, size: tuple[int, int], encode: bool, context: int = 1) -> int:
    """FLOPs (a multiply-add is 2) per group of a stream; `size` is that of frames, or of grids if not `encode`.

    The model may be on the meta device. Temporal attention is counted for `context` latent steps.
    """
    spec = StateSpec(1, context, model.dtype, model.device)
    clock = Clock(torch.zeros(1, dtype=torch.long, device=model.device), context)
    left_out = {torch.ops.aten.addmm_: lambda total, left, right, **_: 2 * left[0] * left[1] * right[1]}
    counter = FlopCounterMode(display=False, custom_mapping=left_out)
    with torch.no_grad(), counter:
        if encode:
            shape = (1, model.config.in_channels, model.group, *size)
            frames = torch.zeros(shape, dtype=torch.float32, device=model.device)
            model.encode_groups(frames, model.init_state(spec, *size), clock)
        else:
            codes = torch.zeros(1, model.config.code_channels, 1, *size, device=model.device, dtype=model.dtype)
            model.decode_groups(codes, model.init_decode_state(spec, *size), clock)
    return counter.get_total_flops()


def measure_preset(name: str, size: tuple[int, int], fps: float) -> dict[str, Any]:
    """The costs of a preset at a frame size (height, width) and rate, counted on the meta device, without weights."""
    config = PRESETS[name]
    with torch.device("meta"):
        model = build(config)
    step, (height, width) = config.spatial_compression, config.pad_size(size)
    grid = config.grid(height, width)
    groups = fps / config.temporal_compression
    per_second = grid[0] * grid[1] * groups * config.num_quantizers
    bits = (config.bits_per_token or 16 * config.latent_channels) * grid[0] * grid[1] * groups
    half = model.to(torch.float16)
    return {
        "name": name,
        "compression": "x".join(map(str, ([config.temporal_compression] if config.video else []) + [step, step])),
        "compression_ratio": config.compression_ratio,
        "codebook_size": config.codebook_size,
        "bits_per_token": config.bits_per_token,
        "grid": list(grid),
        "tokens_per_second": per_second if config.discrete else None,
        "bits_per_second": bits,
        "parameters": model.parameters_count,
        "encode_flops": group_flops(model, (height, width), encode=True),
        "decode_flops": group_flops(model, grid, encode=False),
        "encode_state_bytes": EncodeStream.state_bytes(half, 1, (height, width), config.context),
        "decode_state_bytes": DecodeStream.state_bytes(half, 1, grid, config.context),
    }
