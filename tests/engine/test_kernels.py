"""Every kernel against plain PyTorch: on the GPU where there is one, else in Triton's interpreter."""

import pytest
import torch

pytest.importorskip("triton", reason="the GPU kernels need triton (comes with PyTorch for CUDA; pip install triton)")

from benchmarks.gpu.kernels import FSQ_TOLERANCE, TOLERANCE, all_checks

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
DTYPES = [torch.bfloat16, torch.float16] if CUDA else [torch.float32, torch.float16]
NAMES = [name for name, _ in all_checks(DEVICE, DTYPES[0], small=not CUDA)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_kernel_equals_its_reference(name, dtype):
    error = dict(all_checks(DEVICE, dtype, small=not CUDA))[name]()
    assert error <= (FSQ_TOLERANCE if name == "fsq" else TOLERANCE[dtype])
