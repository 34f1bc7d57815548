"""The GPU's preprocessing source gives the numpy code's bytes: compiled for the CPU everywhere, run by cupy on a
GPU."""

import ctypes
import shutil
import subprocess

import numpy as np
import pytest
import torch

from streamtok.engine.kernels.preprocess import GpuPreprocessor, encoding_kind, shape_of, source_code
from streamtok.engine.preprocess import ENCODINGS, Preprocessor, to_rgb

CASES = [
    ((20, 32), None, "stretch"),
    ((20, 32), (16, 24), "stretch"),
    ((36, 50), (16, 24), "crop"),
    ((36, 50), (24, 24), "pad"),
    ((18, 22), (32, 48), "stretch"),
]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """`prepare` of each kind of encoding, compiled with a C++ compiler."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler to build the kernel's source with")
    folder = tmp_path_factory.mktemp("kernel")
    source = folder / "pixels.cpp"
    source.write_text(source_code())
    built = {}
    for kind in range(6):
        library = folder / f"pixels{kind}.so"
        flags = ["-DDEVICE=static inline", f"-DENCODING={kind}", "-O1", "-shared", "-fPIC", "-o", str(library)]
        subprocess.run([compiler, *flags, str(source)], check=True, capture_output=True)
        built[kind] = ctypes.CDLL(str(library)).prepare
    return built


def camera_bytes(encoding, height, width, padding):
    """Random bytes of one image, and its step."""
    per_pixel = {"nv12": 1, "i420": 1, "mono8": 1}.get(encoding, 4 if encoding.endswith("a8") else 3)
    if encoding.startswith("bayer"):
        per_pixel = 1
    elif encoding not in ("nv12", "i420", "mono8") and "8" not in encoding:
        per_pixel = 2
    step = width * per_pixel + padding
    rows = height * 3 // 2 if encoding in ("nv12", "i420") else height
    return np.random.default_rng(5).integers(0, 256, rows * step, np.uint8), step


@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if "422" not in name])
@pytest.mark.parametrize(("source", "size", "fit"), CASES)
def test_kernel_gives_the_bytes_of_the_numpy_code(compiled, encoding, source, size, fit):
    data, step = camera_bytes(encoding, *source, padding=4)
    shape = shape_of(source, encoding, size, fit, 4, step)
    prepare = Preprocessor(source, size, fit, multiple=4)
    wanted = prepare(to_rgb(data, encoding, *source, step))
    found = np.zeros((3, *prepare.size), np.uint8)
    plane = ctypes.c_long(prepare.size[0] * prepare.size[1])
    compiled[encoding_kind(encoding)](
        ctypes.c_void_p(data.ctypes.data), ctypes.c_void_p(found.ctypes.data), plane, ctypes.c_void_p(shape.ctypes.data)
    )
    np.testing.assert_array_equal(found, wanted)


def test_unknown_encoding_is_named():
    with pytest.raises(ValueError, match="'rgb9'"):
        encoding_kind("rgb9")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("encoding", ["rgb8", "nv12", "yuyv", "bayer_rggb8"])
def test_gpu_gives_the_bytes_of_the_numpy_code(encoding):
    pytest.importorskip("cupy", reason="preprocessing on the GPU needs cupy")
    source, size = (90, 160), (64, 96)
    prepare, on_gpu = Preprocessor(source, size), GpuPreprocessor(source, encoding, size)
    group = torch.zeros(3, 4, *size, dtype=torch.uint8, device="cuda")
    wanted = []
    for t in range(4):
        data, _ = camera_bytes(encoding, *source, padding=0)
        data = np.roll(data, 7 * t)
        wanted.append(prepare(to_rgb(data, encoding, *source)))
        on_gpu.put(data, group[:, t])
    on_gpu.ready()
    np.testing.assert_array_equal(group.cpu().numpy(), np.stack(wanted, 1))
