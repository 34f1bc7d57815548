"""Every kernel that a fused step launches builds for Hopper and fits; the heavy ones use its matrix engine."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="compiling the GPU kernels needs triton (pip install triton); no GPU is needed")

STEPS = [
    ("cosmos-dv4x8x8", (720, 1280), "bfloat16", "strips", 1),
    ("cosmos-dv4x8x8", (1088, 1920), "bfloat16", "flash", 1),
    ("cosmos-dv8x8x8", (256, 448), "float16", "strips", 2),
    ("cosmos-dv8x16x16", (720, 1280), "bfloat16", "flash", 1),
    ("small", (720, 1280), "bfloat16", "flash", 1),
    ("nano", (256, 448), "float16", "flash", 3),
]
HEAVY = {"_conv3x3", "_causal_conv", "_flash", "_strip_scores", "_strip_values"}
CODE = """
import json, sys
from benchmarks.gpu.builds import compile_step_kernels
print(json.dumps(list(compile_step_kernels(*json.loads(sys.argv[1])))))
"""


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step[0]} {step[1][0]}x{step[1][1]}")
def test_everything_that_a_step_launches_builds_and_fits(step, tmp_path):
    """In a process of its own: here the kernels may have been made for the interpreter."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-c", CODE, json.dumps(step)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    names = [name.split()[0] for name, _ in found]
    assert {"_haar", "_conv3x3", "_causal_conv", "_apply", "_fsq"} <= set(names)
    for name, (_, entry) in zip(names, found, strict=True):
        assert entry["ok"], (name, entry)
        assert entry["matrix_engine"] or name not in HEAVY, name
        assert entry["tensor_copies"] or name not in HEAVY - {"_flash"} or step[0] == "nano", name


def test_gpu_check_says_what_is_missing(capsys):
    from tools import gpu_check

    assert gpu_check.main(["--parts", "nonsense"]) == 2
    assert "unknown parts ['nonsense']" in capsys.readouterr().err
