"""Live camera streams to discrete video tokens: stateful, exact, in real time."""

from typing import TYPE_CHECKING, Any

from streamtok.checkpoint import from_cosmos, load, save
from streamtok.config import TokenizerConfig, list_presets
from streamtok.model import NonFiniteError, Tokenizer

if TYPE_CHECKING:
    from streamtok.wire.subscriber import subscribe
    from streamtok.wire.window import TokenWindow

__all__ = [
    "NonFiniteError",
    "TokenWindow",
    "Tokenizer",
    "TokenizerConfig",
    "from_cosmos",
    "list_presets",
    "load",
    "save",
    "subscribe",
]

_LAZY = {"subscribe": "streamtok.wire.subscriber", "TokenWindow": "streamtok.wire.window"}


def __getattr__(name: str) -> Any:
    """What needs ZeroMQ is imported when it is used."""
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'streamtok' has no attribute {name!r}")
