"""The optimizer (Muon for hidden weights, AdamW for the rest), its schedule, and the moving average of the weights.

On a CPU, AdamW also takes the largest matrices, those of the published models: Muon's iteration on them takes minutes.
All state and learning rates are tensors and nothing waits for the device, so a CUDA graph can capture a step.
"""

import math

import torch
from torch import Tensor, nn

from streamtok.config import TokenizerConfig
from streamtok.training.config import OptimizerConfig

# Quintic Newton-Schulz iteration towards the nearest semi-orthogonal matrix (Jordan et al., "Muon", 2024).
NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS = (3.4445, -4.7750, 2.0315), 5
OUTER_LAYERS = ("conv_in", "conv_out", "quant", "prediction.mix")
LARGEST_ON_CPU = 384  # rows or columns up to which a CPU's iteration takes a fraction of a training step
SMALLEST_HIDDEN = 17  # a weight with fewer rows or columns is of a first, last or depthwise layer


def orthogonalize(matrices: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Bring the singular values near 1, computing in `dtype`: matrices (N, rows, columns) -> same, in `dtype`."""
    a, b, c = NEWTON_SCHULZ
    x = matrices.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True, dtype=torch.float32).to(dtype) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x


def is_hidden(name: str, parameter: Tensor) -> bool:
    """Whether Muon may take a weight (of any shape): of a convolution or linear layer, not the first or last."""
    if parameter.ndim < 2 or any(part in name for part in OUTER_LAYERS):
        return False
    return min(_as_matrix(parameter).shape) >= SMALLEST_HIDDEN


def band_scale(config: TokenizerConfig) -> float:
    """The factor by which a tokenizer's wavelet bands are smaller than orthonormal ones."""
    return float(config.patch_size ** (1.5 if config.video else 1.0))


def band_rate(name: str, scale: float) -> float:
    """The factor of AdamW's learning rate for a parameter: not 1 for layers that read or write wavelet bands.

    Bands are plain means, `scale` times smaller than orthonormal ones. The factors update these layers as if bands were
    orthonormal; without them detail is learned late and the output is noisy.
    """
    if name in ("encoder.conv_in.weight", "encoder.conv_in.spatial.weight"):
        return scale
    return 1 / scale if name.startswith("decoder.conv_out") else 1.0


def _rows_first(parameter: Tensor) -> Tensor:
    """A view of a weight as (outputs, ...); temporal convolutions store (taps, outputs, inputs)."""
    return parameter.transpose(0, 1) if parameter.ndim == 3 and parameter.shape[0] < parameter.shape[1] else parameter


def _as_matrix(parameter: Tensor) -> Tensor:
    """A weight as (outputs, inputs * taps)."""
    return _rows_first(parameter).flatten(1)


def _gradients(parameters: list[Tensor]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


class MuonAdamW:
    """Muon and AdamW over a module's parameters, as one optimizer. ValueError if none of them needs gradients."""

    def __init__(
        self, model: nn.Module, config: OptimizerConfig, band_scale: float = 1.0, dtype: torch.dtype = torch.bfloat16
    ):
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if not named:
            raise ValueError("the model has no parameters to train")
        self.config, self.dtype = config, dtype
        self.names = [name for name, _ in named]
        self.parameters: list[Tensor] = [p for _, p in named]
        device = self.parameters[0].device
        self.lr_scale = torch.ones((), device=device)
        self.count = torch.zeros((), device=device)
        self.muon: list[Tensor] = []
        self.adamw: list[Tensor] = []
        self.rates: list[float] = []
        for name, p in named:
            matrix = is_hidden(name, p)
            if matrix and (p.device.type != "cpu" or min(_as_matrix(p).shape) <= LARGEST_ON_CPU):
                self.muon.append(p)
                continue
            self.adamw.append(p)
            # a matrix too large for Muon keeps Muon's rate, whose updates have the RMS of AdamW's
            own = matrix and config.adamw_lr
            self.rates.append(config.muon_lr / config.adamw_lr if own else band_rate(name, band_scale))
        self.momentum = [torch.zeros_like(p) for p in self.muon]
        self.first = [torch.zeros_like(p) for p in self.adamw]
        self.second = [torch.zeros_like(p) for p in self.adamw]
        shapes: dict[torch.Size, list[int]] = {}
        for i, weight in enumerate(self.muon):
            shapes.setdefault(_as_matrix(weight).shape, []).append(i)
        self.same_shape = list(shapes.values())  # indices into `muon`; one batched product each

    def set_lr(self, scale: float) -> None:
        """Set the factor of both learning rates, for the schedule."""
        self.lr_scale.fill_(scale)

    def clip(self) -> Tensor:
        """Clip the gradients to the largest norm allowed; returns the norm before, a scalar tensor."""
        return nn.utils.clip_grad_norm_(self.parameters, self.config.clip)

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter from its gradient; one without a gradient counts as zero."""
        for p in self.parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        self.count += 1
        if self.config.weight_decay:
            torch._foreach_mul_(self.muon, 1 - self.lr_scale * (self.config.weight_decay * self.config.muon_lr))
        if self.muon:
            self._muon_step()
        if self.adamw:
            self._adamw_step()

    def _muon_step(self) -> None:
        beta = self.config.muon_momentum
        grads = _gradients(self.muon)
        torch._foreach_lerp_(self.momentum, grads, 1 - beta)
        ahead = torch._foreach_lerp(grads, self.momentum, beta)  # Nesterov
        for members in self.same_shape:
            matrices = torch.stack([_as_matrix(ahead[i]) for i in members])
            size = 0.2 * math.sqrt(max(matrices.shape[1:]))  # gives the RMS of AdamW's updates
            update = orthogonalize(matrices, dtype=self.dtype).float() * (-size * self.config.muon_lr * self.lr_scale)
            for i, one in zip(members, update, strict=True):
                rows = _rows_first(self.muon[i])
                rows.add_(one.view(rows.shape))

    def _adamw_step(self) -> None:
        beta1, beta2 = self.config.adamw_betas
        grads = _gradients(self.adamw)
        torch._foreach_lerp_(self.first, grads, 1 - beta1)
        torch._foreach_mul_(self.second, beta2)
        torch._foreach_addcmul_(self.second, grads, grads, 1 - beta2)
        spread = torch._foreach_sqrt(self.second)
        torch._foreach_div_(spread, torch.sqrt(1 - beta2**self.count))
        torch._foreach_add_(spread, 1e-8)
        update = torch._foreach_div(self.first, spread)
        torch._foreach_mul_(update, -self.config.adamw_lr * self.lr_scale / (1 - beta1**self.count))
        torch._foreach_mul_(update, self.rates)
        torch._foreach_add_(self.adamw, list(update))

    def _slots(self) -> dict[str, list[Tensor]]:
        return {"momentum": self.momentum, "first": self.first, "second": self.second}

    def state_dict(self) -> dict[str, Tensor | list[Tensor]]:
        return {"count": self.count, "lr_scale": self.lr_scale, **self._slots()}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` gave; ValueError if it belongs to another model."""
        for name, own in self._slots().items():
            if [t.shape for t in state[name]] != [t.shape for t in own]:
                raise ValueError(f"optimizer state {name!r} does not fit this model: was it another preset's run?")
            for mine, theirs in zip(own, state[name], strict=True):
                mine.copy_(theirs)
        self.count.copy_(state["count"])
        self.lr_scale.copy_(state["lr_scale"])


class Average:
    """Exponential moving average of parameters, with a faster decay at first, so that no early weights stay in it."""

    def __init__(self, model: nn.Module, decay: float):
        if not 0 <= decay < 1:
            raise ValueError(f"ema must be in 0..1 (1 excluded), got {decay}")
        self.decay = decay
        self.source = list(model.parameters())
        self.shadow = [p.detach().clone() for p in self.source]
        self.count = torch.zeros((), device=self.source[0].device)

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the parameters."""
        self.count += 1
        keep = ((1 + self.count) / (10 + self.count)).clamp(max=self.decay)
        difference = torch._foreach_sub([p.detach() for p in self.source], self.shadow)
        torch._foreach_mul_(difference, 1 - keep)
        torch._foreach_add_(self.shadow, difference)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the parameters and their average; a second call undoes it."""
        for p, s in zip(self.source, self.shadow, strict=True):
            held = p.detach().clone()
            p.copy_(s)
            s.copy_(held)

    def state_dict(self) -> dict[str, Tensor | list[Tensor]]:
        return {"count": self.count, "shadow": self.shadow}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` gave."""
        for mine, theirs in zip(self.shadow, state["shadow"], strict=True):
            mine.copy_(theirs)
        self.count.copy_(state["count"])


def cosine(step: int, progress: float, config: OptimizerConfig) -> float:
    """The learning rate as a fraction of its peak: linear warm-up in steps, then a cosine over progress in 0..1."""
    rise = min(1.0, (step + 1) / max(1, config.warmup))
    fall = config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return rise * fall
