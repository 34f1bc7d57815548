"""Base of closed-loop tokenizers: as in a video codec, the encoder runs the decoder and codes against its output."""

from dataclasses import replace

import torch
from torch import Tensor

from streamtok.config import TokenizerConfig
from streamtok.model.corrector import Corrector
from streamtok.model.network import Coded, join_coded, widen
from streamtok.model.state import Clock, State, StateSpec
from streamtok.model.tokenizer import Tokenizer


class ClosedLoopTokenizer(Tokenizer):
    """A tokenizer whose encoder state includes the decoder's state and its last frame, the reference.

    Each group is coded against the decoded groups before it, so tokens depend on the decoder's arithmetic.
    """

    corrector: Corrector  # of a model with corrections

    def __init__(self, config: TokenizerConfig, deterministic: bool = False):
        super().__init__(config, deterministic)
        if config.corrections:
            self.corrector = Corrector(config).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def init_state(self, spec: StateSpec, height: int, width: int) -> State:
        """The states of the encoder and of the decoder."""
        return super().init_state(spec, height, width) | self.init_decode_state(spec, *self.config.grid(height, width))

    def init_decode_state(self, spec: StateSpec, grid_height: int, grid_width: int) -> State:
        """The decoder's state and the reference (S, C, H, W), in float32 or better."""
        sides = (side * self.config.spatial_compression for side in (grid_height, grid_width))
        reference = widen(spec).zeros(self.config.in_channels, *sides)
        return super().init_decode_state(spec, grid_height, grid_width) | {"reference": reference}

    def encode_groups(self, x: Tensor, state: State, clock: Clock) -> tuple[Coded, State]:
        """x (B, 3, nG, H, W) float -> n latent steps and the frames that a decoder shows, and the new state."""
        parts = []
        for group, now in split_steps(x, self.group, clock):
            features, encoder = self.encoder(self.observe(group, state, now), state["encoder"], now)
            drawn, held = self.quantize(features, len(x), state, now)
            draft = None
            for _ in range(self.config.corrections):
                draft = self.show_draft(drawn.codes, state, now)
                latent = self.corrector(group - draft, drawn.latent, drawn.codes, now)
                drawn, held = self.quantize_latent(latent, len(x), state, now)
            coded, decoded = self.code_group(group, drawn, draft, state, now)
            state = {"encoder": encoder} | decoded | held
            parts.append(coded)
        return join_coded(parts, 2), state

    def decode_groups(self, codes: Tensor, state: State, clock: Clock) -> tuple[Tensor, State]:
        """codes (B, C, n, h, w) -> frames (B, 3, nG, H, W), and the new state."""
        frames = []
        for step, now in split_steps(codes, 1, clock):
            shown, state = self.show_group(step, state, now)
            frames.append(shown)
        return torch.cat(frames, 2), state

    @torch.no_grad()
    def show_draft(self, codes: Tensor, state: State, clock: Clock) -> Tensor:
        """The frames (B, 3, G, H, W) in [-1, 1] that codes (B, C, 1, h, w) would show if they redrew all cells."""
        return self.redraw(codes, state, clock)[0].clamp(-1, 1)

    def code_group(
        self, group: Tensor, drawn: Coded, draft: Tensor | None, state: State, clock: Clock
    ) -> tuple[Coded, State]:
        """What to send for `group` (B, 3, G, H, W), and the new decoder state.

        `drawn` redraws all cells; `draft` (B, 3, G, H, W) are the frames it showed before its last correction, if any.
        """
        frames, decoded = self.redraw(drawn.codes, state, clock)
        return replace(drawn, frames=frames), decoded

    def show_group(self, codes: Tensor, state: State, clock: Clock) -> tuple[Tensor, State]:
        """codes (B, C, 1, h, w) -> the frames (B, 3, G, H, W) that are shown, and the new decoder state."""
        return self.redraw(codes, state, clock)

    def redraw(self, codes: Tensor, state: State, clock: Clock) -> tuple[Tensor, State]:
        """As `show_group`, but only what the network decodes, without refinement."""
        return super().decode_groups(codes, state, clock)


def split_steps(x: Tensor, size: int, clock: Clock) -> list[tuple[Tensor, Clock]]:
    """The latent steps of x (B, C, n * size, H, W), each with the clock at which it begins."""
    parts = enumerate(x.split(size, 2))
    return [(part, Clock(clock.count + i, clock.context, clock.active)) for i, part in parts]
