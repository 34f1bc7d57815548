"""Fixtures of tests that run the engine; without a GPU Triton kernels run in the interpreter, asked for at import."""

import ctypes
import os
import shutil
import subprocess

import pytest
import torch

from streamtok.engine.gpu.kernels.preprocess import encoding_kind, source_code

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STREAMTOK_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def load_kernel(tmp_path_factory):
    """`kernels.preprocess.load_kernel` for the CPU: the same source, compiled with a C++ compiler."""
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

    def of(encoding):
        def launch(data, planes, numbers):
            address = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (data, planes, numbers)]
            plane = ctypes.c_long(planes.shape[1] * planes.shape[2])
            built[encoding_kind(encoding)](address[0], address[1], plane, address[2])

        return launch

    return of
