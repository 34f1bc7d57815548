"""Tokenizers that are predictive and refining: moving cells are coded as a change, still cells are refined."""

import torch
from torch import Tensor

from streamtok.model.predictive import PredictiveTokenizer
from streamtok.model.refining import RefiningTokenizer
from streamtok.model.state import State, StateSpec


class PredictiveRefiningTokenizer(RefiningTokenizer, PredictiveTokenizer):
    """Both closed loops around one reference, the decoded picture with its refined cells.

    A predictive code means a change, so the network must not read it again while its cell is kept. Instead it reads
    zeros there, and a channel that marks kept cells.
    """

    def init_decode_state(self, spec: StateSpec, grid_height: int, grid_width: int) -> State:
        """As in `RefiningTokenizer`, without the codes `held`."""
        state = super().init_decode_state(spec, grid_height, grid_width)
        return {name: value for name, value in state.items() if name != "held"}

    def mask_codes(self, codes: Tensor, kept: Tensor, state: State) -> tuple[Tensor, State]:
        """codes (B, C, h, w), kept bool (B, h, w) -> (B, C + 1, h, w): 0 in kept cells; the last channel marks them."""
        kept = kept[:, None]
        return torch.cat([torch.where(kept, 0, codes), kept.to(codes.dtype)], 1), {}
