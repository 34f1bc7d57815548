"""Encoding streams that run on fused kernels, captured graphs, or both.

They behave as `streamtok.model.EncodeStream` and share its snapshots: a snapshot taken under one engine resumes
under any other of the same precision.
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from streamtok.engine.graph import CapturedStep, GraphPool, check_room, own
from streamtok.model.frames import to_float
from streamtok.model.quantizer import fsq_tables
from streamtok.model.state import Clock, map_state
from streamtok.model.stream import EncodeStream
from streamtok.model.tokenizer import Encoded, Tokenizer, unfold
from streamtok.model.wavelet import haar_matrix

if TYPE_CHECKING:
    from streamtok.engine.configuration import EngineConfiguration


class PlainSnapshots:
    """For streams whose layers keep their past in a form of their own: snapshots have the plain one.

    A layer with `to_plain(past, count)` and `from_plain` says how.
    """

    buffers: dict[str, Tensor]
    model: Tokenizer

    def snapshot(self, slots: Any = None) -> dict[str, Any]:
        """As the stream's own."""
        snapshot = super().snapshot(slots)  # type: ignore[misc]
        tensors = snapshot["tensors"]
        for name, layer in self._special().items():
            tensors[name] = layer.to_plain(tensors[name], tensors["count"]).contiguous()
        return snapshot

    def restore(self, snapshot: dict[str, Any], slots: Any = None) -> None:
        """As the stream's own."""
        tensors = dict(snapshot["tensors"])
        for name, layer in self._special().items():
            if name in tensors:
                tensors[name] = layer.from_plain(tensors[name], tensors["count"])
        super().restore({"meta": snapshot["meta"], "tensors": tensors}, slots)  # type: ignore[misc]

    def _special(self) -> dict[str, Any]:
        """The layers that keep a form of their own, by the name of their buffer."""
        layers = {name: module_at(self.model, name) for name in self.buffers}
        return {name: layer for name, layer in layers.items() if hasattr(layer, "to_plain")}


def module_at(model: Any, name: str) -> Any:
    """The sub-module whose state has this name, or None."""
    for part in name.split("."):
        model = model[int(part)] if part.isdigit() else getattr(model, part, None)
    return model


class EngineStream(PlainSnapshots, EncodeStream):
    """An encoding stream whose step is captured as the configuration says, for one slot or all of them at a time."""

    def __init__(
        self, model: Tokenizer, slots: int, size: tuple[int, int], context: int, configuration: "EngineConfiguration"
    ):
        self.configuration = configuration
        if model.device.type == "cuda":
            check_room(
                self.state_bytes(model, slots, size, context), f"the state of {slots} slots at {size[0]}x{size[1]}"
            )
        super().__init__(model, slots, size, context)
        self._graphs: dict[tuple, CapturedStep] = {}

    @property
    def slot_by_slot(self) -> bool:
        """As the configuration says; deterministic mode always."""
        return self.model.deterministic or self.configuration.slots_per_step == 1

    def _call(self, x: Tensor, active: list[bool], keyframe: list[bool]) -> tuple[Encoded, list[bool]]:
        if not self.configuration.graph:
            return super()._call(x, active, keyframe)
        if self.slots == 1 or self.slot_by_slot:
            return self._each(x, active, keyframe)
        masks = torch.tensor([active, keyframe], dtype=torch.bool).to(x.device, non_blocking=True)
        out, moved = self._captured(x, None)(x, masks[0], masks[1])
        return own(out), moved.tolist()

    def _each(self, x: Tensor, active: list[bool], keyframe: list[bool]) -> tuple[Encoded, list[bool]]:
        """The graphs of the active slots, one after the other."""
        outs: list[Encoded | None] = [None] * self.slots
        moved: list[Tensor | None] = [None] * self.slots
        for slot in [slot for slot in range(self.slots) if active[slot]]:
            row = x[slot : slot + 1]
            out, moved_now = self._captured(row, slot)(row, True, keyframe[slot])
            outs[slot], moved[slot] = own(out), moved_now.clone()
        told = iter(torch.cat([mark for mark in moved if mark is not None]).tolist() if any(active) else [])
        return self._merge(outs), [mark is not None and next(told) for mark in moved]

    def _captured(self, x: Tensor, slot: int | None) -> CapturedStep:
        """The graph of one slot (None: of all) for frames of this dtype; captured at its first use."""
        key = (slot, x.dtype)
        if key not in self._graphs:
            kept, state = self.model.__dict__, self.state
            pool = kept["_graph_pool"] = kept.get("_graph_pool") or GraphPool()  # one for all streams of a model
            if slot is not None:
                state = map_state(lambda tensor: tensor[slot : slot + 1], self.state)

            def step(frames: Tensor, active: Tensor, keyframe: Tensor) -> tuple:
                return self._advance_slots(frames, active, keyframe, state)

            with torch.no_grad():
                self._graphs[key] = CapturedStep(step, x, pool.handle)
        return self._graphs[key]


class FusedStream(EngineStream):
    """A stream of a model from `fused.fuse`: its convolutions keep their past in rings."""

    def __init__(
        self, model: Tokenizer, slots: int, size: tuple[int, int], context: int, configuration: "EngineConfiguration"
    ):
        config, device = model.config, model.device
        self._tables = fsq_tables(config.levels, torch.float32, device) if config.quantizer == "fsq" else None
        self._signs = None
        if config.patch_size == 4:
            self._signs = (
                (haar_matrix(4, model.axes, torch.float32, torch.device("cpu")) * 64).T.half().contiguous().to(device)
            )
        super().__init__(model, slots, size, context, configuration)

    def _compute(self, x: Tensor, state: dict, clock: Clock, keyframe: Tensor) -> tuple[Encoded, dict]:
        from streamtok.engine.kernels.fsq import fsq_pack
        from streamtok.engine.kernels.haar import haar_bands

        if x.dtype == torch.uint8 and self._signs is not None:
            bands = haar_bands(x, self._signs, self.model.dtype, edge=1)
        else:
            bands = self.model._bands(to_float(x, self.model.dtype))
        features, new = self.model.encoder(bands, state["encoder"], clock)
        if self._tables is None:
            coded = self.model._bottleneck(features, x.shape[0])
            return Encoded(coded.indices, coded.latent), {"encoder": new}
        last = self.model.quant_conv  # a few channels: in float32, so that no rounding comes just before the tokens
        z = F.conv2d(features.float(), last.weight.float(), last.bias.float())
        indices = fsq_pack(z, self._tables).unflatten(0, (x.shape[0], -1))
        return Encoded(indices, unfold(z, x.shape[0])), {"encoder": new}
