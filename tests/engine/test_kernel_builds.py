"""Every GPU kernel builds for Hopper, fits and does not spill; the heavy ones use its matrix and copy engines."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="compiling the GPU kernels needs triton (pip install triton); no GPU is needed")

HEAVY = ("conv3x3 512", "conv3x3 256", "causal_conv 512", "causal_conv 256", "strip_scores", "strip_values")


@pytest.mark.slow
def test_kernels_build_for_hopper_without_a_gpu(tmp_path):
    """In a process of its own: here the kernels may have been made for the interpreter."""
    code = "import json; from streamtok.engine.gpu.kernel_builds import compile_all; print(json.dumps(compile_all()))"
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    found = json.loads(run.stdout.splitlines()[-1])
    assert {name: entry for name, entry in found.items() if not entry["ok"]} == {}
    for name in HEAVY:
        assert found[name]["matrix_engine"], name
        assert found[name]["tensor_copies"], name


def test_gpu_check_says_what_is_missing(capsys):
    from tools import gpu_check

    assert gpu_check.main(["--parts", "nonsense"]) == 2
    assert "unknown parts ['nonsense']" in capsys.readouterr().err
