"""One training step: forward, backward and update, run eagerly or captured as CUDA graphs."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from streamtok.model import Tokenizer, detach
from streamtok.model.functional import Normalize
from streamtok.model.layers import Norm
from streamtok.model.state import State, flatten, map_state
from streamtok.training.config import TrainConfig
from streamtok.training.losses import compute_losses, sum_losses
from streamtok.training.optimizer import Average, MuonAdamW, band_scale
from streamtok.training.speed import choose_dtype

log = logging.getLogger("streamtok.training")
Gradients = Callable[[Tensor, State | None], tuple[dict[str, Tensor], State]]


class NonFiniteTraining(RuntimeError):
    """A loss or gradient became NaN or infinite, at `.step` in `.tensor`; no weight was changed by it."""

    def __init__(self, step: int, tensor: str):
        super().__init__(
            f"step {step}: {tensor} is not finite; the weights are those of step {step - 1}. "
            "Lower optimizer.muon_lr / adamw_lr, or look at the data of that step"
        )
        self.step, self.tensor = step, tensor


def compile_norm() -> Normalize:
    """A norm fused with its activation by torch.compile: x (N, C, H, W) -> same, with float32 statistics."""
    fused = torch.compile(_norm, dynamic=True)

    def normalize(x: Tensor, weight: Tensor, bias: Tensor, groups: int, silu: bool) -> Tensor:
        """x (N, C, H, W) -> same."""
        with torch.autocast(x.device.type, enabled=False):  # autocast would widen x to float32
            return fused(x, weight, bias, groups, silu)

    return normalize


@contextmanager
def use_norm(model: Tokenizer, fused: Normalize | None) -> Iterator[None]:
    """Run `fused` in place of `plain_norm` in a model's norms inside a `with` block; None leaves them as they are."""
    norms = [layer for layer in model.modules() if isinstance(layer, Norm)]
    for norm in norms:
        norm.fused = fused
    try:
        yield
    finally:  # a compiled function cannot be pickled, and whoever uses the model later expects the plain one
        for norm in norms:
            norm.fused = None


def _norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, silu: bool) -> Tensor:
    """x (N, C, H, W) -> same."""
    wide = x.float().reshape(x.shape[0], groups, -1, *x.shape[2:])
    variance, mean = torch.var_mean(wide, dim=(2, 3, 4), correction=0, keepdim=True)
    y = ((wide - mean) * torch.rsqrt(variance + 1e-6)).reshape(x.shape)
    y = y * weight[:, None, None] + bias[:, None, None]
    return (F.silu(y) if silu else y).to(x.dtype)


class TrainingStep:
    """The training step of one model; gradients stay in the same buffers, so that graphs can share them."""

    def __init__(self, model: Tokenizer, config: TrainConfig):
        self.model, self.config = model, config
        dtype = choose_dtype(config.dtype, model.device)
        self.optimizer = MuonAdamW(model, config.optimizer, band_scale(model.config), dtype)
        self.average = Average(model, config.optimizer.ema)
        for p in self.optimizer.parameters:
            p.grad = torch.zeros_like(p)
        self.grads = [p.grad for p in self.optimizer.parameters if p.grad is not None]
        self.device = self.optimizer.parameters[0].device
        self.norm = compile_norm() if config.compile else None
        self.graphs: dict[tuple, _Graph] = {}  # by shape, whether a state is carried, and loss weights
        self.captured_update: torch.cuda.CUDAGraph | None = None
        self.pool: Any = None  # CUDA memory shared by all graphs
        self.captures = config.cuda_graph and self.device.type == "cuda"

    def autocast(self) -> AbstractContextManager:
        """The context for forward passes in the optimizer's precision."""
        if self.optimizer.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.optimizer.dtype)

    def find_gradients(
        self, video: Tensor, state: State | None, weights: dict[str, float]
    ) -> tuple[dict[str, Tensor], State]:
        """Run forward and backward on video (B, 3, T, H, W) in -1..1, from a fresh start or from a state of B slots.

        Returns losses and `grad_norm` by name, scalars, and the detached state.
        """
        torch._foreach_zero_(self.grads)
        with self.autocast(), use_norm(self.model, self.norm):
            output = self.model(video, state=state)
        terms = compute_losses(output, video, weights, self.model.group, self.config.place_weights)
        loss = sum_losses(terms, weights)
        loss.backward()
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(self.grads)))
        named = {name: value.detach() for name, value in terms.items()} | {"grad_norm": norm}
        return named, detach(output.state)

    def update(self) -> None:
        """Clip the gradients, take an optimizer step, and update the average of the weights."""
        self.optimizer.clip()
        self.optimizer.step()
        self.average.update()

    def __call__(
        self, step: int, video: Tensor, state: State | None, weights: dict[str, float]
    ) -> tuple[dict[str, Tensor], State]:
        """As `find_gradients`, then update; raises NonFiniteTraining before any weight is changed.

        video (B, 3, T, H, W) in -1..1.
        """
        torch.manual_seed((self.config.seed << 32) + step)
        if self.captures:
            named, state = self._replay(video, state, weights)
            update = self._capture_update().replay
        else:
            named, state = self.find_gradients(video, state, weights)
            update = self.update
        if not torch.isfinite(named["grad_norm"]):
            raise NonFiniteTraining(step, self._name_culprit(named))
        update()
        return named, state

    def _name_culprit(self, named: dict[str, Tensor]) -> str:
        for name, value in named.items():
            if name != "grad_norm" and not torch.isfinite(value):
                return f"the loss {name!r}"
        for name, grad in zip(self.optimizer.names, self.grads, strict=True):
            if not torch.isfinite(grad).all():
                return f"the gradient of {name!r}"
        return "the gradient norm"

    def _replay(self, video: Tensor, state: State | None, weights: dict[str, float]) -> tuple[dict[str, Tensor], State]:
        """As `find_gradients` of video (B, 3, T, H, W), by the graph for its shape, captured at the first use."""
        key = (video.shape, state is None, tuple(sorted(weights.items())))
        if key not in self.graphs:
            self.graphs[key] = _Graph(self, lambda v, s: self.find_gradients(v, s, weights), video, state)
            log.info("event=captured shape=%s carried=%s", tuple(video.shape), state is not None)
        return self.graphs[key](video, state)

    def _capture_update(self) -> torch.cuda.CUDAGraph:
        if self.captured_update is None:
            self.captured_update = torch.cuda.CUDAGraph()
            torch.cuda.synchronize()
            with torch.cuda.graph(self.captured_update, pool=self.pool):
                self.update()
        return self.captured_update


class _Graph:
    """A captured forward and backward pass; a call copies new values in, replays, and copies the results out."""

    def __init__(self, owner: TrainingStep, function: Gradients, video: Tensor, state: State | None):
        self.video, self.state = video.clone(), None if state is None else map_state(Tensor.clone, state)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # warm-up, in which libraries choose algorithms and allocate
            for _ in range(3):
                function(self.video, self.state)
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=owner.pool):
            self.named, self.after = function(self.video, self.state)
        owner.pool = owner.pool or self.graph.pool()

    def __call__(self, video: Tensor, state: State | None) -> tuple[dict[str, Tensor], State]:
        """As the captured function, of a video (B, 3, T, H, W) and a state of the captured shapes."""
        self.video.copy_(video)
        for mine, given in zip(flatten(self.state or {}).values(), flatten(state or {}).values(), strict=True):
            mine.copy_(given)
        self.graph.replay()
        return {name: value.clone() for name, value in self.named.items()}, map_state(Tensor.clone, self.after)
