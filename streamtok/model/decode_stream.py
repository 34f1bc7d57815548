"""The stateful decoder: `DecodeStream` turns tokens into frames, one grid per slot and step."""

import torch
from torch import Tensor

from streamtok.model.frames import check_indices, check_latent
from streamtok.model.network import Network
from streamtok.model.state import Clock, State, StateSpec
from streamtok.model.stream import Mask, Stream, exclusive


class DecodeStream(Stream[Tensor]):
    """Decodes tokens to frames, one grid per step, for a fixed number of slots.

    A fresh slot takes its first grid as a keyframe: never feed it one from the middle of an epoch.
    """

    direction = "decode"

    @staticmethod
    def make_state(model: Network, spec: StateSpec, size: tuple[int, int]) -> State:
        """The decoder's state for grids of `size` (h, w)."""
        return model.init_decode_state(spec, *size)

    @exclusive
    def step(self, tokens: Tensor, active: Mask | None = None, keyframe: Mask | None = None) -> Tensor:
        """Indices (S, 1, h, w), (S, Q, 1, h, w) or a latent (S, C, 1, h, w) -> frames (S, C, G, H, W).

        Frames are float in [-1, 1] scale, unclipped. Slots marked `keyframe` start afresh, others continue. Only the
        last frame of a keyframe's group is meaningful. Tokens of inactive slots are ignored.
        """
        running, marks = self._mask(active, "active", True), self._mask(keyframe, "keyframe", False)
        config = self.model.config
        tokens = self._with_time(tokens)
        idle = [slot for slot in range(self.slots) if not running[slot]]
        if idle and isinstance(tokens, Tensor) and tokens.ndim and tokens.shape[0] == self.slots:
            tokens = tokens.clone()
            for slot in idle:  # inactive rows may hold anything, and must pass the checks
                tokens[slot].zero_()
        (check_indices if config.discrete else check_latent)(tokens, config)
        if tokens.shape[0] != self.slots or tuple(tokens.shape[-3:]) != (1, *self.size):
            raise ValueError(
                f"tokens have shape {tuple(tokens.shape)}, expected {self.slots} slots of one ({self.size[0]}, "
                f"{self.size[1]}) grid each: (slots, [channels,] 1, h, w)"
            )
        return self._run(tokens.to(self.model.device), running, marks)

    def _with_time(self, tokens: Tensor) -> Tensor:
        """Add the T' axis to grids without one, (S, h, w) or (S, C, h, w)."""
        config = self.model.config
        still = 3 + (not config.discrete or config.quantizer == "residual_fsq")
        return tokens.unsqueeze(-3) if isinstance(tokens, Tensor) and tokens.ndim == still else tokens

    def _compute(self, x: Tensor, state: State, clock: Clock, keyframe: Tensor) -> tuple[Tensor, State]:
        return self.model.decode_groups(self.model.read_codes(x), state, clock)

    def _finite(self, out: Tensor) -> Tensor:
        return torch.isfinite(out.flatten(1).abs().amax(1))  # a seventh of the time of `isfinite` on every value

    def _merge(self, outs: list[Tensor | None]) -> Tensor:
        some = next((out for out in outs if out is not None), None)
        if some is None:
            sides = (self.model.config.spatial_compression * n for n in self.size)
            return torch.zeros(self.slots, self.model.config.in_channels, self.model.group, *sides)
        return torch.cat([some if out is None else out for out in outs])
