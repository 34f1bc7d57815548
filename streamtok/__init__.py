"""Live camera streams to discrete video tokens: stateful, exact, in real time.

Public names are imported on first use, so that a command line starts at once. If this package is imported before
PyTorch, PyTorch's threads sleep while they wait for each other: on a busy machine, spinning costs many times the work.
And there are no more of them than a container's CPU quota has cores.
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from streamtok.cores import heed_quota

if TYPE_CHECKING:
    from streamtok import checkpoint, data
    from streamtok.checkpoint import from_cosmos, save
    from streamtok.checkpoint.hub import push
    from streamtok.config import TokenizerConfig, list_presets
    from streamtok.engine.loading import load
    from streamtok.model import NonFiniteError, Tokenizer
    from streamtok.wire.subscriber import subscribe
    from streamtok.wire.window import TokenWindow

if "torch" not in sys.modules:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    heed_quota()

__all__ = [
    "NonFiniteError",
    "TokenWindow",
    "Tokenizer",
    "TokenizerConfig",
    "checkpoint",
    "data",
    "from_cosmos",
    "list_presets",
    "load",
    "push",
    "save",
    "subscribe",
]

_MODULES = ("checkpoint", "data")

_HOMES = {
    "NonFiniteError": "model",
    "TokenWindow": "wire.window",
    "Tokenizer": "model",
    "TokenizerConfig": "config",
    "from_cosmos": "checkpoint.cosmos",
    "list_presets": "config",
    "load": "engine.loading",
    "push": "checkpoint.hub",
    "save": "checkpoint.folder",
    "subscribe": "wire.subscriber",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module, or a public module; `__version__` is that of the installed package."""
    if name == "__version__":
        from importlib.metadata import version

        return version("streamtok")
    if name in _MODULES:
        return importlib.import_module(f"streamtok.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'streamtok' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"streamtok.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
