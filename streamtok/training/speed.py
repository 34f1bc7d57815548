"""Which precision a training step is faster in here, by measurement: bfloat16 without units for it costs many times
what float32 does, with them half."""

import logging
import time
from functools import cache, partial

import torch
import torch.nn.functional as F

from streamtok.measures import time_least
from streamtok.training.config import Precision

log = logging.getLogger("streamtok.training")
SLOW = 1.5  # times the other's: what is worth a warning


def choose_dtype(wanted: Precision, device: torch.device) -> torch.dtype:
    """The precision of forward passes and of Muon's products: as told, or with "auto" the faster one of a CPU.

    A GPU has bfloat16. Logs by how much a CPU would be faster in the other one than in what it was told.
    """
    if device.type != "cpu":
        return torch.float32 if wanted == "float32" else torch.bfloat16
    ratio = measure_bfloat16()
    if wanted == "auto":
        log.info("event=precision bfloat16_costs=%.2f unit=float32", ratio)
        return torch.bfloat16 if ratio < 1 else torch.float32
    costs, other = (ratio, "float32") if wanted == "bfloat16" else (1 / ratio, "bfloat16")
    if costs > SLOW:
        log.warning("event=slow_setting dtype=%s costs=%.1f unit=%s hint='dtype: auto'", wanted, costs, other)
    return torch.bfloat16 if wanted == "bfloat16" else torch.float32


@cache
def measure_bfloat16() -> float:
    """CPU time of a convolution of `nano`'s size, forward and backward, in bfloat16 over that in float32."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        x, weight = torch.randn(8, 160, 12, 12), torch.randn(160, 160, 3, 3)
        runs = (partial(_convolve, x.to(dtype), weight.to(dtype)) for dtype in (torch.bfloat16, torch.float32))
        narrow, wide = (time_least(run, time.process_time) for run in runs)
        return narrow / wide


def _convolve(x: torch.Tensor, weight: torch.Tensor) -> None:
    """x (B, C, H, W), weight (D, C, 3, 3): a convolution, forward and backward."""
    leaves = x.detach().requires_grad_(), weight.detach().requires_grad_()
    F.conv2d(*leaves, padding=1).float().square().mean().backward()
