"""Measures which precision trains faster on this CPU: bfloat16 takes half the time of float32 with instructions for
it, and many times as long without."""

import logging
import time
from functools import cache, partial

import torch
import torch.nn.functional as F

from streamtok.measures import time_least
from streamtok.training.config import Precision

log = logging.getLogger("streamtok.training")
SLOW = 1.5  # ratio to the other precision's time from which to warn


def choose_dtype(wanted: Precision, device: torch.device) -> torch.dtype:
    """The precision of forward passes and of Muon's products: as `wanted`, or with "auto" the faster one on a CPU.

    "auto" is bfloat16 on a GPU. On a CPU it warns if the other precision would be much faster than the wanted one.
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
    """The ratio of CPU time, bfloat16 to float32, of a convolution of `nano`'s size, forward and backward."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        x, weight = torch.randn(8, 160, 12, 12), torch.randn(160, 160, 3, 3)
        runs = (partial(_convolve, x.to(dtype), weight.to(dtype)) for dtype in (torch.bfloat16, torch.float32))
        narrow, wide = (time_least(run, time.process_time) for run in runs)
        return narrow / wide


def _convolve(x: torch.Tensor, weight: torch.Tensor) -> None:
    """Run a convolution forward and backward: x (B, C, H, W), weight (D, C, 3, 3)."""
    leaves = x.detach().requires_grad_(), weight.detach().requires_grad_()
    F.conv2d(*leaves, padding=1).float().square().mean().backward()
