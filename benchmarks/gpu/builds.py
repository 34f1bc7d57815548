"""Compiles the kernels that a fused step launches, for a GPU that need not be here.

Triton brings its own assembler, and meta tensors replace the device's, so this needs no GPU. Before any machine is
booked it shows whether a kernel builds, and how much shared memory and how many registers it takes. It also shows
whether it spills, and whether it uses Hopper's matrix and copy engines.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from streamtok.config import PRESETS
from streamtok.engine.configuration import EngineConfiguration
from streamtok.engine.gpu.fused import fuse_model
from streamtok.engine.gpu.fused_streams import FusedStream
from streamtok.model import build

SHARED_LIMIT = 227 << 10  # bytes of shared memory of one block on Hopper
SPILLED_LIMIT = 128  # bytes of registers that a thread may spill


def compile_step_kernels(
    name: str, size: tuple[int, int], precision: str, over_space: str, slots: int = 1, capability: int = 90
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Compile the kernels of a step of the preset `name` for frames of `size` (H, W) and CUDA devices of `capability`.

    Yields each kernel's name and resources; `ok` says that it fits and does not spill. It does not work with
    TRITON_INTERPRET=1, which replaces the compiler.
    """
    with torch.device("meta"):
        model = build(PRESETS[name]).to(getattr(torch, precision))
    vars(model)["_fingerprints"] = {None: (None, "weights without memory")}
    made = EngineConfiguration(device="cuda", precision=precision, kernels="fused", over_space=over_space)
    stream = FusedStream(fuse_model(model, over_space), slots, size, model.config.context, made)
    frames = torch.zeros(slots, 3, model.group, *size, dtype=torch.uint8, device="meta")
    masks = torch.zeros(2, slots, dtype=torch.bool, device="meta")
    with _compile_only(capability) as built, torch.no_grad():
        stream.advance(frames, masks[0], masks[1])
    for number, kernel in enumerate(built.values()):
        yield f"{kernel.metadata.name} {number}", _inspect(kernel)


@contextmanager
def _compile_only(capability: int) -> Iterator[dict[str, Any]]:
    """Within the block, launches only compile, for `capability`; yields the kernels by hash."""
    built, run = {}, JITFunction.run
    device = mock.Mock()
    device.get_current_target.return_value = GPUTarget("cuda", capability, 32)
    device.get_current_device.return_value = device.get_current_stream.return_value = 0

    def compile_kernel(self: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        built[kernel.hash] = kernel
        return kernel

    with mock.patch.object(driver, "_active", device), mock.patch.object(JITFunction, "run", compile_kernel):
        yield built


def _inspect(kernel: Any) -> dict[str, Any]:
    """The resources of a compiled kernel, as the disassembler that comes with Triton reports them."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    match = re.search(r"REG:(\d+) STACK:(\d+)", shown)
    if match is None:
        raise RuntimeError(f"cuobjdump printed no resource usage: {shown[:200]!r}")
    registers, stack, ptx = int(match[1]), int(match[2]), kernel.asm["ptx"]
    return {
        "ok": kernel.metadata.shared <= SHARED_LIMIT and stack <= SPILLED_LIMIT,
        "shared_bytes": kernel.metadata.shared,
        "registers": registers,
        "stack_bytes": stack,
        "matrix_engine": "wgmma.mma_async" in ptx,
        "tensor_copies": "cp.async.bulk.tensor" in ptx,
    }
