"""The roofline of a step: the work of a group counted, and compared with the device's measured peaks."""

import torch

from streamtok.bench.options import BenchOptions
from streamtok.bench.timing import kernel_ms, time_calls
from streamtok.model import Tokenizer, build
from streamtok.model.costs import group_flops
from streamtok.model.state import StateSpec, flatten


def count_work(tok: Tokenizer, size: tuple[int, int]) -> dict[str, float]:
    """Count FLOPs of one camera's group, and the least bytes to move: weights, frames, state read and written."""
    with torch.device("meta"):
        plain = build(tok.config)
    spec = StateSpec(1, tok.config.context, torch.float32, plain.device)
    encoder = sum(parameter.numel() for parameter in plain.encoder.parameters())
    # All state is read. Of a KV ring, one step is written; of a convolution's past frames, the newer half.
    moved = sum(
        tensor.numel() * (1 + (1 / spec.context if name.endswith((".key", ".value")) else 0.5))
        for name, tensor in flatten(plain.init_state(spec, *size)).items()
    )
    frames = tok.config.in_channels * tok.group * size[0] * size[1]
    flops = group_flops(plain, size, encode=True, context=spec.context)
    return {"flops": float(flops), "bytes": float(tok.dtype.itemsize * (encoder + moved) + frames)}


def measure_roofline(fast: Tokenizer, options: BenchOptions, step_ms: float) -> dict[str, float]:
    """The least time a group could take, its counted work over this device's measured peaks, and the share reached."""
    work, peak = count_work(fast, options.size), measure_peak(fast.dtype, options.device)
    compute_ms = work["flops"] / peak["tflops"] / 1e9
    memory_ms = work["bytes"] / peak["terabytes_per_s"] / 1e9
    per_camera = step_ms / options.cameras
    shares = {"share_of_peak": compute_ms / per_camera, "share_of_roofline": max(compute_ms, memory_ms) / per_camera}
    reached = {"compute_ms": compute_ms, "memory_ms": memory_ms, "achieved_tflops": work["flops"] / per_camera / 1e9}
    return work | peak | reached | shares


def measure_peak(dtype: torch.dtype, device: str) -> dict[str, float]:
    """Measure TFLOP/s of a large matrix product on random data, and TB/s of a large copy (read and write)."""
    if device == "cuda":
        return _measure_gpu_peak(dtype)
    a, b = (torch.randn(1024, 1024).to(dtype) for _ in range(2))
    product = min(time_calls(lambda _: a @ b, 8, device)[0])
    source = torch.ones(32 << 20)
    target = torch.empty_like(source)
    copy = min(time_calls(lambda _: target.copy_(source), 5, device)[0])
    return {"tflops": 2 * 1024**3 / product / 1e9, "terabytes_per_s": 8 * source.numel() / copy / 1e9}


def _measure_gpu_peak(dtype: torch.dtype) -> dict[str, float]:
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
    product = kernel_ms(lambda: a @ b)
    source = torch.empty(2 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy = kernel_ms(lambda: target.copy_(source), repeat=3)
    return {"tflops": 2 * 8192**3 / product / 1e9, "terabytes_per_s": 2 * source.numel() / copy / 1e9}
