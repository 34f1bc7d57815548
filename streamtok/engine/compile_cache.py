"""Keeps compiled code across processes, so that only the first start on a machine compiles.

The output of `torch.compile` and Triton lies in `cache_folder()/compiled`, beside the stored engine configurations.
Checksums lie with it: code that a power cut or a full disk has damaged is compiled again instead of loaded.
"""

import atexit
import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path

import torch

from streamtok.engine.configuration import EngineError, cache_folder
from streamtok.model.stream import Step

log = logging.getLogger("streamtok.engine")

LIST = "checksums.json"
COMPILERS = ("g++", "clang++", "c++")


def use_folder() -> Path:
    """Point PyTorch's and Triton's caches at our folder; damaged code is removed, with a warning.

    If it cannot be written they use a temporary folder, which is removed when this process ends.
    """
    folder = cache_folder() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        folder = _temporary_folder(folder, error.strerror)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)  # also if it is set: PyTorch itself sets it to its default
    os.environ["TRITON_CACHE_DIR"] = str(folder / "triton")
    reason = _find_damage(folder)
    if reason:
        _discard(folder, reason)
    return folder


@functools.cache
def _temporary_folder(instead_of: Path, reason: str) -> Path:
    log.warning("compiled=unkept because=%s: %s; set STREAMTOK_CACHE, or each start compiles", instead_of, reason)
    folder = tempfile.mkdtemp(prefix="streamtok-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def compile_step(step: Step) -> Step:
    """Wrap a step in torch.compile. The first call compiles it, or loads what an earlier process compiled.

    EngineError if compiling fails, or on a CPU without a C++ compiler.
    """
    fast = torch.compile(step, dynamic=False)
    ready = False

    def run(x: torch.Tensor, *masks: torch.Tensor) -> tuple:
        """x (S, 3, G, H, W), masks (S,) bool -> what `step` gives."""
        nonlocal ready
        if ready:
            return fast(x, *masks)
        if x.device.type == "cpu":
            _need_compiler()
        folder = use_folder()
        kept = any(folder.iterdir())
        try:
            out = fast(x, *masks)
        except Exception as error:  # whatever a compiler, a linker or a loader may raise
            if not kept:
                raise EngineError(f"the step could not be compiled: {error}. Run it with compile=False") from error
            _discard(folder, f"{type(error).__name__}: {str(error)[:200]}")
            torch._dynamo.reset()
            out = fast(x, *masks)
        _write_checksums(folder)
        ready = True
        return out

    return run


def _need_compiler() -> None:
    named = os.environ.get("CXX")
    if not any(shutil.which(name) for name in ([named] if named else COMPILERS)):
        raise EngineError(
            f"compile=True on a CPU needs a C++ compiler, and {named or ' or '.join(COMPILERS)} is not in PATH; "
            "install g++, set CXX, or use compile=False"
        )


def _hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of each compiled file in a folder, by relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != LIST and path.suffix not in (".lock", ".tmp")
    }


def _write_checksums(folder: Path) -> None:
    """Write the checksums. Compiled code runs without them too, so a failure is only a warning."""
    temporary = folder / f"{LIST}.{os.getpid()}.tmp"
    try:
        temporary.write_text(json.dumps(_hash_files(folder), indent=1) + "\n")
        temporary.replace(folder / LIST)
    except OSError as error:
        log.warning("compiled=kept without checksums folder=%s because=%s", folder, error)


def _find_damage(folder: Path) -> str | None:
    """A file that differs from its checksum, as text, or None.

    Files without a checksum come from a process that still runs or was killed. If one is damaged, loading it fails.
    """
    if not (folder / LIST).exists():
        return None
    try:
        wanted = json.loads((folder / LIST).read_text())
        found = _hash_files(folder)
        return next((f"{name} is not what was written" for name in wanted if found.get(name) != wanted[name]), None)
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        return f"{LIST} cannot be read: {error}"


def _discard(folder: Path, reason: str) -> None:
    log.warning("compiled=discarded folder=%s because=%s; compiling again", folder, reason)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
