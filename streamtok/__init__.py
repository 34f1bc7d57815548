"""Live camera streams to discrete video tokens: stateful, exact, in real time."""

from typing import TYPE_CHECKING, Any

from streamtok import checkpoint
from streamtok.checkpoint import from_cosmos, save
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


def load(
    name: str, deterministic: bool = False, *, engine: Any = None, size: tuple[int, int] = (256, 448),
    device: str | None = None,
) -> Tokenizer:  # fmt: skip
    """A tokenizer by preset name, checkpoint folder or published Cosmos checkpoint, in eval mode.

    `engine` makes it fast for frames of `size` (height, width): "auto" measures once on this machine and stores what it
    chose, an `EngineConfiguration` (or its dict) is taken as it is, None leaves it plain in float32. See
    `streamtok.checkpoint.load` and `streamtok.engine.optimize` for what they raise.
    """
    tokenizer = checkpoint.load(name, deterministic)
    if engine is None:
        return tokenizer.to(device) if device else tokenizer
    if deterministic:
        raise ValueError(f"deterministic=True runs one slot and one group at a time, plainly; drop engine={engine!r}")
    from streamtok.engine import optimize

    return optimize(tokenizer, engine, size=size, device=device)


_LAZY = {"subscribe": "streamtok.wire.subscriber", "TokenWindow": "streamtok.wire.window"}


def __getattr__(name: str) -> Any:
    """What needs ZeroMQ is imported when it is used."""
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'streamtok' has no attribute {name!r}")
