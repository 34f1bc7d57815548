"""What a model costs, counted without running it."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from streamtok.model.state import Clock, StateSpec
from streamtok.model.tokenizer import Tokenizer


def group_flops(model: Tokenizer, size: tuple[int, int], encode: bool) -> int:
    """FLOPs (a multiply-add is 2) of one more group in a stream; `size` is that of frames, or of the grid to decode.

    The model may live on the meta device. Attention over time is counted for one latent step.
    """
    spec = StateSpec(1, 1, model.dtype, model.device)
    clock = Clock(torch.zeros(1, dtype=torch.long, device=model.device), 1)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        if encode:
            frames = torch.zeros(1, 3, model.group, *size, device=model.device, dtype=torch.float32)
            model.encode_groups(frames, model.init_state(spec, *size), clock)
        else:
            codes = torch.zeros(1, model.config.latent_channels, 1, *size, device=model.device, dtype=model.dtype)
            model.decode_groups(codes, model.init_decode_state(spec, *size), clock)
    return counter.get_total_flops()
