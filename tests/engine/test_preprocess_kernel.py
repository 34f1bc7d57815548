"""The GPU's preprocessing source gives the numpy code's bytes: compiled for the CPU everywhere, by cupy on a GPU."""

import importlib.util

import numpy as np
import pytest
import torch

from streamtok.engine.gpu.kernels import preprocess
from streamtok.engine.gpu.kernels.preprocess import encoding_kind, pack_shape
from streamtok.preprocessing.pixels import ENCODINGS, to_rgb
from streamtok.preprocessing.preprocessor import Preprocessor
from tests.kit.pictures import camera_bytes

CASES = [
    ((20, 32), None, "stretch"),
    ((20, 32), (16, 24), "stretch"),
    ((36, 50), (16, 24), "crop"),
    ((36, 50), (24, 24), "pad"),
    ((18, 22), (32, 48), "stretch"),
]
GPU = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if "422" not in name])
@pytest.mark.parametrize(("source", "size", "fit"), CASES)
def test_kernel_gives_the_bytes_of_the_numpy_code(load_kernel, device, encoding, source, size, fit):
    if device == "cuda":
        pytest.importorskip("cupy", reason="preprocessing on the GPU needs cupy")
        load_kernel = preprocess.load_kernel
    data, step = camera_bytes(encoding, *source, padding=4)
    prepare = Preprocessor(source, size, fit, multiple=4)
    numbers = pack_shape(prepare, encoding, step).reshape(1).view(np.int32)
    found = torch.zeros(3, *prepare.size, dtype=torch.uint8, device=device)
    load_kernel(encoding)(torch.from_numpy(data).to(device), found, torch.from_numpy(numbers).to(device))
    np.testing.assert_array_equal(found.cpu().numpy(), prepare(to_rgb(data, encoding, *source, step)))


def test_unknown_encoding_is_named():
    with pytest.raises(ValueError, match="'rgb9'"):
        encoding_kind("rgb9")


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="cupy is installed")
def test_without_cupy_the_kernel_says_what_to_install():
    with pytest.raises(ImportError, match=r"pip install 'streamtok\[cuda"):
        preprocess.load_kernel("rgb8")
