"""Prints a Markdown table of the memory of weights and state, by model and frame size, and how many cameras fit.

    python benchmarks/memory.py > table.md

State is exact (the same code allocates it). `fused` is the GPU engine's state: its rings have room for one more step, 3
frames where plain layers keep 2. Working memory is not included; `tools/gpu_check.py` measures it.
"""

import sys

import torch

from streamtok.config import PRESETS
from streamtok.model import build
from streamtok.model.state import StateSpec, flatten

MODELS = ("nano", "nano-p", "small", "cosmos-dv4x8x8", "cosmos-dv8x8x8", "cosmos-dv8x16x16")
SIZES = ((256, 448), (720, 1280), (1088, 1920))
HALF = 2  # bytes


def state_bytes(preset: str, size: tuple[int, int], context: int) -> tuple[int, int]:
    """Bytes of one camera's encoding state in half precision: (plain, fused)."""
    with torch.device("meta"):
        model = build(PRESETS[preset])
    spec = StateSpec(1, context, torch.float16, torch.device("meta"))
    plain = fused = 0
    for name, tensor in flatten(model.init_state(spec, *size)).items():
        count = tensor.numel() * tensor.element_size()
        plain += count
        # The ring has P + T frames instead of P; T is 2 in the first level of the 8x models, else 1.
        twice = model.config.temporal_resamplings and (name.startswith("encoder.conv_in") or ".down.0.block" in name)
        grows = tensor.ndim == 5 and tensor.shape[1] == 2 and not model.config.predictive
        fused += count * (4 if twice else 3) // 2 if grows else count
    return plain, fused


def weight_bytes(preset: str) -> tuple[int, int]:
    """Bytes of the encoder's weights, and of all weights, in half precision."""
    with torch.device("meta"):
        model = build(PRESETS[preset])
    encoder = sum(parameter.numel() for parameter in model.encoder.parameters())
    return HALF * encoder, HALF * model.parameters_count


def main() -> int:
    """Print the table."""
    print("| model | frames | weights (encoder / all) | state per camera, plain | fused | 8 GB | 16 GB | 80 GB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for preset in MODELS:
        encoder, everything = weight_bytes(preset)
        for size in SIZES:
            plain, fused = state_bytes(preset, size, PRESETS[preset].context)
            # Half of the memory is left for frames, working memory and other processes.
            cameras = [int((gigabytes * 5e8 - everything) // fused) for gigabytes in (8, 16, 80)]
            weights = f"{encoder / 1e6:.0f} / {everything / 1e6:.0f} MB"
            states = f"{plain / 1e6:.0f} MB | {fused / 1e6:.0f} MB"
            fits = " | ".join(str(count) if count > 0 else "-" for count in cameras)
            print(f"| {preset} | {size[0]}x{size[1]} | {weights} | {states} | {fits} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
