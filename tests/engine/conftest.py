"""Without a GPU the Triton kernels run in Triton's interpreter, which reads this before the kernels are imported."""

import importlib
import importlib.util
import os
import sys

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

if importlib.util.find_spec("streamtok.tools") is None:  # a copy that is not installed, on a machine with a GPU
    sys.modules["streamtok.tools"] = importlib.import_module("tools")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STREAMTOK_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
