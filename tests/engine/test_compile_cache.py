"""Compiled code is kept: a second process loads it and compiles nothing; damage costs a warning and a compilation."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from streamtok.engine import EngineError
from streamtok.engine.compile_cache import COMPILERS, LIST, compile_step, use_folder

STEP = """
import json, logging, torch
from torch._dynamo.utils import counters
from streamtok.engine.compile_cache import compile_step

logging.basicConfig(format="%(message)s")
ones = torch.ones(1, dtype=torch.bool)
step = compile_step(lambda x, active, keyframe: ((x * 2).sin(), active & ~keyframe))
out, moved = step(torch.ones(1, 64), ones, ones)
found = {"hits": 0, "misses": 0, "sum": float(out.sum()), "moved": moved.tolist()}
for group in ("inductor", "aot_autograd"):
    for name, count in counters[group].items():
        found["hits"] += count if name.endswith("cache_hit") else 0
        found["misses"] += count if name.endswith("cache_miss") else 0
print(json.dumps(found))
"""


def start(folder):
    environment = os.environ | {"STREAMTOK_CACHE": str(folder)}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-c", STEP], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.timeout(900)  # a compiler at work, on a machine that may be busy
@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="needs a C++ compiler")
def test_second_process_compiles_nothing_and_damage_is_discarded(tmp_path, caplog, monkeypatch):
    first, _ = start(tmp_path)
    assert first["misses"] > 0
    assert first["sum"] == pytest.approx(64 * 0.9092974)
    second, said = start(tmp_path)
    assert second["hits"] > 0
    assert second == first | {"hits": second["hits"], "misses": 0}
    assert "discarded" not in said
    folder = tmp_path / "compiled"
    library = next(name for name in json.loads((folder / LIST).read_text()) if name.endswith(".so"))
    (folder / library).write_bytes(b"cut off")
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, "")  # to be put back after the test
    monkeypatch.setenv("STREAMTOK_CACHE", str(tmp_path))
    assert use_folder() == folder
    assert list(folder.iterdir()) == []  # as before the first start, which compiled
    assert "compiled=discarded" in caplog.text
    assert library in caplog.text


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="needs a C++ compiler")
def test_damage_is_survived(tmp_path):
    first, _ = start(tmp_path)
    for library in (tmp_path / "compiled").rglob("*.so"):
        library.write_bytes(b"cut off")
    second, said = start(tmp_path)
    assert "compiled=discarded" in said
    assert second == first


@pytest.mark.parametrize("place", ["a_file", "/proc"])
def test_cache_that_cannot_be_written_costs_a_warning(place, tmp_path, caplog, monkeypatch):
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, "")  # to be put back after the test
    (tmp_path / "a_file").touch()
    monkeypatch.setenv("STREAMTOK_CACHE", str(tmp_path / place))
    folder = use_folder()
    assert list(folder.iterdir()) == []
    assert use_folder() == folder
    assert caplog.text.count("compiled=unkept") == 1


def test_list_that_cannot_be_read_discards_the_folder(caplog, monkeypatch):
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, "")  # to be put back after the test
    folder = use_folder()
    (folder / "kept.so").write_bytes(b"code")
    assert use_folder() == folder
    assert (folder / "kept.so").exists()
    (folder / LIST).write_text("{")
    use_folder()
    assert not any(folder.iterdir())
    assert "cannot be read" in caplog.text


def test_missing_compiler_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(EngineError, match=r"needs a C\+\+ compiler.*g\+\+.*compile=False"):
        compile_step(lambda x, active, keyframe: (x, active))(torch.ones(1), *[torch.ones(1, dtype=torch.bool)] * 2)
