"""Every kernel that a fused step launches builds for Hopper and fits: tensors without memory stand for the device."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="compiling the GPU kernels needs triton (pip install triton); no GPU is needed")

STEPS = [
    ("cosmos-dv4x8x8", (1088, 1920), "bfloat16", "flash", 1),
    ("cosmos-dv8x8x8", (256, 448), "float16", "strips", 2),
    ("cosmos-dv8x16x16", (720, 1280), "bfloat16", "flash", 1),
    ("small", (720, 1280), "bfloat16", "flash", 1),
    ("nano", (256, 448), "float16", "flash", 3),
]
HEAVY = {"_conv3x3", "_causal_conv", "_flash", "_strip_scores", "_strip_values"}
MOST_SPILLED = 128  # bytes of a thread


def launched(name, size, precision, over_space, slots):
    """What one step compiles: name, shared memory, bytes spilled, and whether it uses the matrix engine, of each."""
    import torch
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    from streamtok.config import PRESETS
    from streamtok.engine.configuration import EngineConfiguration
    from streamtok.engine.gpu.fused import fuse_model
    from streamtok.engine.gpu.fused_streams import FusedStream
    from streamtok.engine.gpu.kernel_builds import _resources
    from streamtok.model import build

    class Hopper:
        def get_current_target(self):
            return GPUTarget("cuda", 90, 32)

        def get_current_device(self):
            return 0

        def get_current_stream(self, device):
            return 0

    built, run = {}, JITFunction.run

    def compiled(self, *args, grid, warmup, **options):
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        built[kernel.hash] = kernel
        return kernel

    driver.set_active(Hopper())
    JITFunction.run = compiled
    with torch.device("meta"):
        model = build(PRESETS[name]).to(getattr(torch, precision))
    model.__dict__["_fingerprint"] = (None, "weights without memory")
    made = EngineConfiguration(device="cuda", precision=precision, kernels="fused", over_space=over_space)
    stream = FusedStream(fuse_model(model, over_space), slots, size, model.config.context, made)
    frames = torch.zeros(slots, 3, model.group, *size, dtype=torch.uint8, device="meta")
    masks = torch.zeros(2, slots, dtype=torch.bool, device="meta")
    with torch.no_grad():
        stream.advance(frames, masks[0], masks[1])
    return [
        (
            kernel.metadata.name,
            kernel.metadata.shared,
            _resources(kernel.asm["cubin"])[1],
            "wgmma.mma_async" in kernel.asm["ptx"],
        )
        for kernel in built.values()
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(STEPS)), ids=[f"{step[0]} {step[1][0]}x{step[1][1]}" for step in STEPS])
def test_everything_that_a_step_launches_builds_and_fits(number, tmp_path):
    """In a process of its own: here the kernels may have been made for the interpreter."""
    from streamtok.engine.gpu.kernel_builds import SHARED_LIMIT

    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    here = "import json; from tests.engine import test_launches as t; "
    code = here + f"print(json.dumps(t.launched(*t.STEPS[{number}])))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert {"_haar", "_conv3x3", "_causal_conv", "_apply", "_fsq"} <= {name for name, *_ in found}
    for name, shared, spilled, matrix_engine in found:
        assert shared <= SHARED_LIMIT
        assert spilled <= MOST_SPILLED
        assert matrix_engine or name not in HEAVY
