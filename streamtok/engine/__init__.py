"""What makes the model fast: precision, graphs, compilation, kernels, preprocessing.

from streamtok.engine import optimize

fast = optimize(streamtok.load("nano"), size=(256, 448))   # measured once, stored, reused
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamtok.engine.configuration import EngineConfiguration
    from streamtok.engine.engine import OptimizedTokenizer
    from streamtok.engine.graph import EngineError
    from streamtok.engine.tuning import optimize

__all__ = ["EngineConfiguration", "EngineError", "OptimizedTokenizer", "optimize"]

_HOMES = {
    "EngineConfiguration": "configuration",
    "EngineError": "graph",
    "OptimizedTokenizer": "engine",
    "optimize": "tuning",
}


def __getattr__(name: str) -> Any:
    """Imported when used: preprocessing and the ingest core live here too and need none of it."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"streamtok.engine.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'streamtok.engine' has no attribute {name!r}")
