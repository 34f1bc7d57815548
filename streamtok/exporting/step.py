"""One step as a pure function of tensors, to export: the state is both input and output, all zeros when fresh."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from streamtok.ingest.token_grid import grid_shape, list_levels
from streamtok.model import Tokenizer
from streamtok.model.decode_stream import DecodeStream
from streamtok.model.encode_stream import EncodeStream
from streamtok.model.frames import to_float
from streamtok.model.state import Clock, State, StateSpec, flatten

Direction = Literal["encode", "decode"]
READING = {
    "encode": "frames uint8 RGB (1, G, H, W, 3); of a keyframe only the first frame counts",
    "decode": "grids with a leading 1, widened to int32 (float32 for continuous models); of a keyframe's G frames only "
    "the last one is the picture",
}


class ExportedStep(nn.Module):
    """A step of one slot. Inputs, as in `example`: frames or tokens, keyframe (1,) bool, count (1,) int64, state.

    encode: frames uint8 (1, G, H, W, 3) -> tokens int32 (1, [Q,] h, w), or a latent float32 (1, C, h, w).
    decode: the same tokens or latent -> frames uint8 (1, G, H, W, 3).
    Further outputs are the new count and state, in the order of the inputs; `inputs` and `outputs` name them. `size` is
    that of frames, (H, W); ValueError if it is not on the token grid.
    """

    def __init__(self, tokenizer: Tokenizer, direction: Direction, size: tuple[int, int]) -> None:
        super().__init__()
        self.tokenizer, self.direction, self.size = tokenizer, direction, size
        self.grid = grid_shape(tokenizer.config, *size)
        spec = StateSpec(1, tokenizer.config.context, tokenizer.dtype, tokenizer.device)
        stream, extent = (EncodeStream, size) if direction == "encode" else (DecodeStream, tokenizer.config.grid(*size))
        self.template = stream.make_state(tokenizer, spec, extent)
        tensors = flatten(self.template)
        self.names = list(tensors)
        given, made = ("frames", "tokens") if direction == "encode" else ("tokens", "frames")
        self.inputs = [given, "keyframe", "count", *(f"in.{name}" for name in self.names)]
        self.outputs = [made, "count_out", *(f"out.{name}" for name in self.names)]
        first = torch.zeros(1, tokenizer.group, *size, 3, dtype=torch.uint8)
        if direction == "decode":
            discrete = tokenizer.config.discrete
            first = torch.zeros(1, *self.grid, dtype=torch.int32 if discrete else torch.float32)
        start = [torch.ones(1, dtype=torch.bool), torch.zeros(1, dtype=torch.long)]
        self.example = (first, *start, *tensors.values())

    def forward(self, x: Tensor, keyframe: Tensor, count: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Inputs as in `example`: x (1, ...), keyframe and count (1,), states (1, ...) -> outputs; see the class."""
        count = torch.where(keyframe, 0, count)
        run = self._encode if self.direction == "encode" else self._decode
        clock = Clock(count, self.tokenizer.config.context)
        out, new = run(x, keyframe, refill(self.template, iter(state)), clock)
        tensors = flatten(new)
        return out, count + 1, *(tensors[name].contiguous() for name in self.names)

    def _encode(self, x: Tensor, keyframe: Tensor, state: State, clock: Clock) -> tuple[Tensor, State]:
        """x uint8 (1, G, H, W, 3) -> tokens or latent, and the new state; see the class."""
        frames = torch.where(keyframe.view(-1, 1, 1, 1, 1), x[:, :1], x).permute(0, 4, 1, 2, 3)
        coded, new = self.tokenizer.encode_groups(to_float(frames, self.tokenizer.dtype), state, clock)
        out = coded.latent.float() if coded.indices is None else coded.indices.int()
        return out.squeeze(-3), new

    def _decode(self, x: Tensor, keyframe: Tensor, state: State, clock: Clock) -> tuple[Tensor, State]:
        """The inverse of `_encode`: tokens or latent -> frames uint8 (1, G, H, W, 3), and the new state."""
        codes = self.tokenizer.read_codes(x.unsqueeze(-3).long() if self.tokenizer.config.discrete else x.unsqueeze(-3))
        frames, new = self.tokenizer.decode_groups(codes, state, clock)
        pixels = frames.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
        return pixels.permute(0, 2, 3, 4, 1).contiguous(), new

    def facts(self) -> dict[str, Any]:
        """What a program must know to run the file, as plain values for JSON."""
        config = self.tokenizer.config
        tensors = dict(zip(self.inputs, self.example, strict=True))
        return {
            "format": "streamtok-step",
            "version": 1,
            "direction": self.direction,
            "model": config.name,
            "tokenizer": self.tokenizer.fingerprint,
            "image_size": list(self.size),
            "grid": list(self.grid),
            "levels": list_levels(config),
            "codebook_size": config.codebook_size,
            "temporal_compression": self.tokenizer.group,
            "spatial_compression": config.spatial_compression,
            "context": config.context,
            "predictive": config.closed_loop,
            "precision": str(self.tokenizer.dtype).removeprefix("torch."),
            "preprocessing": "RGB, 8 bit, resized by whole numbers as streamtok's preprocessing does; the step scales",
            "reading": READING[self.direction],
            "state": "zeros before the first step and at a keyframe; afterwards out.NAME goes to in.NAME, count_out to "
            "count",
            "inputs": [_describe(name, tensor) for name, tensor in tensors.items()],
            "outputs": self.outputs,
        }


def refill(template: State, tensors: Iterator[Tensor]) -> State:
    """A state nested like `template`, of other tensors (S, ...) in the order of `flatten`."""
    if isinstance(template, Tensor):
        return next(tensors)
    return {key: refill(value, tensors) for key, value in template.items()}


def _describe(name: str, tensor: Tensor) -> dict[str, Any]:
    return {"name": name, "dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
