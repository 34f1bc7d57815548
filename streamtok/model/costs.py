"""What a model costs, counted without running it."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from streamtok.model.state import Clock, StateSpec
from streamtok.model.tokenizer import Tokenizer


def flop_counter() -> FlopCounterMode:
    """A context that counts FLOPs, those of products added in place too, which PyTorch's leaves out."""
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: _product_flops})


def _product_flops(total: tuple, left: tuple, right: tuple, **_: object) -> int:
    """Of shapes (n, m), (n, k) and (k, m)."""
    return 2 * left[0] * left[1] * right[1]


def group_flops(model: Tokenizer, size: tuple[int, int], encode: bool) -> int:
    """FLOPs (a multiply-add is 2) of one more group in a stream; `size` is that of frames, or of the grid to decode.

    The model may live on the meta device. Attention over time is counted for one latent step.
    """
    spec = StateSpec(1, 1, model.dtype, model.device)
    clock = Clock(torch.zeros(1, dtype=torch.long, device=model.device), 1)
    with torch.no_grad(), flop_counter() as counter:
        if encode:
            frames = torch.zeros(
                1, model.config.in_channels, model.group, *size, device=model.device, dtype=torch.float32
            )
            model.encode_groups(frames, model.init_state(spec, *size), clock)
        else:
            codes = torch.zeros(1, model.config.code_channels, 1, *size, device=model.device, dtype=model.dtype)
            model.decode_groups(codes, model.init_decode_state(spec, *size), clock)
    return counter.get_total_flops()
