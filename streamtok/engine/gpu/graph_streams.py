"""Streams of PyTorch's layers on a GPU, with steps captured as CUDA graphs."""

import torch
from torch import Tensor

from streamtok.engine.configuration import EngineConfiguration
from streamtok.engine.gpu.graph import CapturedStep, GraphPool, capture_step, check_room, copy_output
from streamtok.engine.streams import Streams
from streamtok.model import Encoded, EncodeStream, Tokenizer
from streamtok.model.state import map_state


class GraphStream(EncodeStream):
    """An encoding stream whose step is captured if the configuration says so, per slot or for all slots at once.

    `pool` is the device memory that the graphs of one model share.
    """

    def __init__(
        self,
        model: Tokenizer,
        slots: int,
        size: tuple[int, int],
        context: int,
        configuration: EngineConfiguration,
        pool: GraphPool | None = None,
    ):
        if model.device.type == "cuda":
            needed = self.state_bytes(model, slots, size, context)
            check_room(needed, f"the state of {slots} slots at {size[0]}x{size[1]}")
        self.configuration, self._pool = configuration, pool or GraphPool()
        super().__init__(model, slots, size, context, alone=configuration.slots_per_step == 1)
        self._graphs: dict[tuple, CapturedStep] = {}

    def _call(self, x: Tensor, active: list[bool], keyframe: list[bool]) -> tuple[Encoded, list[bool]]:
        """x (S, 3, G, H, W) -> tokens and latents, and which slots have moved."""
        if not self.configuration.graph:
            return super()._call(x, active, keyframe)
        if self.slots == 1 or self.slot_by_slot:
            return self._step_each(x, active, keyframe)
        masks = torch.tensor([active, keyframe], dtype=torch.bool).to(x.device, non_blocking=True)
        out, moved = self._capture(x, None)(x, masks[0], masks[1])
        return copy_output(out), moved.tolist()

    def _step_each(self, x: Tensor, active: list[bool], keyframe: list[bool]) -> tuple[Encoded, list[bool]]:
        """x (S, 3, G, H, W) through the graphs of the active slots, one after the other."""
        outs: list[Encoded | None] = [None] * self.slots
        moved: list[Tensor | None] = [None] * self.slots
        for slot in [slot for slot in range(self.slots) if active[slot]]:
            row = x[slot : slot + 1]
            out, moved_now = self._capture(row, slot)(row, True, keyframe[slot])
            outs[slot], moved[slot] = copy_output(out), moved_now.clone()
        told = iter(torch.cat([mark for mark in moved if mark is not None]).tolist() if any(active) else [])
        return self._merge(outs), [mark is not None and next(told) for mark in moved]

    def _capture(self, x: Tensor, slot: int | None) -> CapturedStep:
        """The graph of one slot (None: of all) for frames (S, 3, G, H, W) of this dtype; captured at its first use."""
        key = (slot, x.dtype, "hold" in self.state)
        if key not in self._graphs:
            state = self.state
            if slot is not None:
                row = slice(slot, slot + 1)
                state = map_state(lambda tensor: tensor[row], self.state)

            def step(frames: Tensor, active: Tensor, keyframe: Tensor) -> tuple:
                """frames (S, 3, G, H, W), masks (S,) bool."""
                return self._advance_slots(frames, active, keyframe, state)

            with torch.no_grad():
                self._graphs[key] = CapturedStep(step, x, self._pool.handle)
        return self._graphs[key]


class GraphStreams(Streams):
    """Opens streams of PyTorch's layers on a GPU, captured if the configuration says so."""

    def __init__(self, model: Tokenizer, configuration: EngineConfiguration):
        super().__init__(model, configuration)
        self.pool = GraphPool()
        # `capture_step` captures one step of all slots; deterministic streams take one per slot
        self.decode_step = capture_step if configuration.graph and not model.deterministic else None

    def open_encoder(self, slots: int, size: tuple[int, int], context: int) -> EncodeStream:
        """As `Streams` says."""
        return GraphStream(self.model, slots, size, context, self.configuration, self.pool)
