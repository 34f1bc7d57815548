"""The GPU kernels compiled for a GPU that is not here, at the shapes of the full-size encoder at 720p.

Triton brings its own assembler, so this needs no GPU. It tells before any machine is booked whether a kernel
builds, how much shared memory and how many registers it takes, whether it spills, and whether it uses Hopper's matrix
and copy engines.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from streamtok.engine.gpu.kernels import attention, fsq, haar, norm, ring_attention, spatial, temporal

TILE, WEIGHTS = "tensordesc<bf16[128,64]>", "tensordesc<bf16[256,64]>"  # boxes that the copy engine moves
HALF, FLOAT, LONG = "*bf16", "*fp32", "*i64"
SHARED_LIMIT = 227 << 10  # bytes of shared memory that one block may take on Hopper
SHAPES = ((512, 90, 160), (256, 180, 320))  # channels, height, width

Case = tuple[str, Any, dict[str, str], dict[str, Any], tuple[int, int]]


def list_cases() -> Iterator[Case]:
    """Every kernel that the engine launches: name, kernel, types of its arguments, constants, (warps, stages)."""
    yield from _convolutions()
    yield from _norms()
    yield from _attention()
    yield from _ends()


def _convolutions() -> Iterator[Case]:
    for channels, height, width in SHAPES:
        rows = {"CIN": channels, "COUT": channels, "ROWS": 128, "COLUMNS": 256, "STEP": 64}
        pixels, with_moments = {"HEIGHT": height, "WIDTH": width}, {"HAS_RESIDUAL": True, "HAS_MOMENTS": True}
        yield (
            f"conv3x3 {channels}",
            spatial._conv3x3,
            {"x": TILE, "weight": WEIGHTS, "bias": HALF, "y": HALF, "count": LONG},
            {"FRAMES": 1, "RING": 3, **pixels, **rows},
            (8, 4),
        )
        yield (
            f"causal_conv {channels}",
            temporal._causal_conv,
            {
                "ring": TILE,
                "count": LONG,
                "weight": WEIGHTS,
                "moments": FLOAT,
                **dict.fromkeys(("bias", "residual", "y"), HALF),
            },
            {"AREA": height * width, "FRAMES": 1, "RING": 3, "TAPS": 3, "STRIDE": 1, **rows, **with_moments},
            (8, 4),
        )


def _norms() -> Iterator[Case]:
    pieces = {"PIECES": 512, "PIECE": norm.PIECE}
    for channels, height, width in SHAPES:
        yield (
            f"norm {channels}",
            norm._apply,
            {"x": HALF, "y": HALF, "moments": FLOAT, "weight": HALF, "bias": HALF, "pieces": "i32", "eps": "fp32"},
            {"HEIGHT": height, "WIDTH": width, "CHANNELS": channels, "EDGE": 1, **pieces, "SILU": True},
            (16, 3),
        )
    yield (
        "moments",
        norm._moments,
        {"x": HALF, "moments": FLOAT, "size": "i32", "pieces": "i32"},
        {"PIECE": norm.PIECE},
        (16, 3),
    )


def _attention() -> Iterator[Case]:
    strides = dict.fromkeys(("stride_q", "stride_k", "stride_v", "frame_q", "frame_k", "frame_v"), "i32")
    yield (
        "flash",
        attention._flash,
        {"q": HALF, "k": HALF, "v": HALF, "out": HALF, **strides, "scale": "fp32"},
        {"LENGTH": 14400, "D": 512, "ROWS": 64, "COLUMNS": 32},
        (8, 2),
    )
    blocks = {"BLOCKS": 57, "D": 512, "ROWS": 128, "COLUMNS": 256, "STEP": 64}
    numbers = {"first": "i32", "count": "i32", "scale": "fp32"}
    yield (
        "strip_scores",
        attention._strip_scores,
        {"q": TILE, "k": WEIGHTS, "p": HALF, "tops": FLOAT, "totals": FLOAT, **numbers},
        {"LENGTH": 14400, **blocks},
        (8, 4),
    )
    yield (
        "strip_values",
        attention._strip_values,
        {"p": TILE, "v": "tensordesc<bf16[64,256]>", "out": HALF, "factors": FLOAT, "count": "i32"},
        {"WIDE": 256, **blocks},
        (8, 4),
    )
    ring = {"q": HALF, "k_new": HALF, "v_new": HALF, "keys": HALF, "values": HALF, "count": LONG, "out": HALF}
    yield (
        "ring",
        ring_attention._ring,
        ring | dict.fromkeys(("places", "stride_q", "stride_new"), "i32") | {"scale": "fp32"},
        {"D": 512, "WIDE": 512, "CONTEXT": 32, "STEPS": 32},
        (4, 3),
    )


def _ends() -> Iterator[Case]:
    tables = {"half": FLOAT, "offset": FLOAT, "shift": FLOAT, "middle": FLOAT, "basis": "*i64"}
    numbers = dict.fromkeys(("places", "area", "stride_n", "stride_c", "stride_p"), "i32")
    yield "fsq", fsq._fsq, {"z": FLOAT, "out": "*i32", **tables, **numbers}, {"DIMS": 6, "BLOCK": 256}, (4, 3)
    yield (
        "haar",
        haar._haar,
        {"frames": "*u8", "signs": "*fp16", "y": HALF},
        {"FRAMES": 4, "HEIGHT": 720, "WIDTH": 1280, "EDGE": 1, "CELLS": haar.CELLS},
        (4, 3),
    )


def compile_all(capability: int = 90) -> dict[str, dict[str, Any]]:
    """Compile every case for CUDA devices of `capability`; per kernel its resources, or "error".

    Not under TRITON_INTERPRET=1, which replaces the compiler. `ok`: it builds, fits and does not spill.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, kernel, types, constants, (warps, stages) in list_cases():
        try:
            found[name] = _compile(kernel, types, constants, (warps, stages), capability)
        except Exception as error:  # one kernel that does not build is a result like any other
            found[name] = {"ok": False, "error": f"{type(error).__name__}: {error}"[:500]}
    return found


def _compile(
    kernel: Any, types: dict[str, str], constants: dict[str, Any], options: tuple[int, int], capability: int
) -> dict:
    names = kernel.arg_names
    # pointers and strides are multiples of 16, as those of the engine's tensors are
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if types.get(name, "").startswith("*") or name.startswith(("stride", "frame_", "first", "size"))
    }
    source = ASTSource(
        fn=kernel,
        signature={name: types.get(name, "constexpr") for name in names},
        attrs=aligned,
        constexprs={(names.index(name),): value for name, value in constants.items()},
    )
    warps, stages = options
    built = triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps, "num_stages": stages}
    )
    registers, stack = _resources(built.asm["cubin"])
    ptx, shared = built.asm["ptx"], built.metadata.shared
    return {
        "ok": shared <= SHARED_LIMIT and not stack,
        "shared_bytes": shared,
        "registers": registers,
        "stack_bytes": stack,
        "matrix_engine": "wgmma.mma_async" in ptx,
        "tensor_copies": "cp.async.bulk.tensor" in ptx,
    }


def _resources(cubin: bytes) -> tuple[int, int]:
    """(registers per thread, bytes of stack), as the disassembler that comes with Triton reports them."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        shown = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    match = re.search(r"REG:(\d+) STACK:(\d+)", shown)
    if match is None:
        raise RuntimeError(f"cuobjdump printed no resource usage: {shown[:200]!r}")
    return int(match[1]), int(match[2])
