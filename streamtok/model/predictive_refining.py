"""Predictive tokenizers that refine: what moves is redrawn as a change of what is shown, what stands still sharpens."""

import torch
from torch import Tensor

from streamtok.model.predictive import PredictiveTokenizer
from streamtok.model.refining import RefiningTokenizer
from streamtok.model.state import State, StateSpec


class PredictiveRefiningTokenizer(RefiningTokenizer, PredictiveTokenizer):
    """Both closed loops around one reference: the picture as it is shown, kept cells with their codewords.

    A predictive code says "this change", so the network must not read it again while its cell is kept. There it reads
    no code, and a channel that says so.
    """

    def init_decode_state(self, spec: StateSpec, grid_height: int, grid_width: int) -> State:
        """As a refining one's, without the codes that it holds."""
        state = super().init_decode_state(spec, grid_height, grid_width)
        return {name: value for name, value in state.items() if name != "held"}

    def mask_codes(self, codes: Tensor, kept: Tensor, state: State) -> tuple[Tensor, State]:
        """codes (B, C, h, w), kept bool (B, h, w) -> (B, C + 1, h, w): no code in kept cells, but a 1 at the end."""
        kept = kept[:, None]
        return torch.cat([torch.where(kept, 0, codes), kept.to(codes.dtype)], 1), {}
