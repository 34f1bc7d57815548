"""zstd for payloads, bounded by the size that the header declares. Optional: needs the `zstandard` package."""

from functools import cache
from types import ModuleType

from streamtok.extras import missing_extra
from streamtok.wire.errors import WireError

LEVEL = 1


def check(compression: str) -> None:
    """Raise ImportError, with what to install, if payloads cannot be compressed by zstd here."""
    if compression == "zstd":
        _zstandard()


def compress(payload: bytes) -> bytes:
    """One zstd frame that declares its content size."""
    return _zstandard().ZstdCompressor(level=LEVEL, write_content_size=True).compress(payload)


def decompress(payload: bytes | memoryview, expected: int) -> bytes:
    """The `expected` bytes inside one zstd frame; WireError for anything else, before allocating it.

    ImportError where the package is not there.
    """
    zstandard = _zstandard()
    try:
        declared = zstandard.frame_content_size(payload)
        if declared != expected:
            raise WireError("size", f"zstd frame of {declared} bytes, the grid has {expected}")
        return zstandard.ZstdDecompressor().decompress(payload, max_output_size=expected, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise WireError("compression", f"zstd: {error}") from error


def _zstandard() -> ModuleType:
    try:
        import zstandard
    except ImportError as error:
        raise ImportError(_explain_lack()) from error
    return zstandard


@cache  # a hostile sender may have it asked for at each message
def _explain_lack() -> str:
    return str(missing_extra("compression 'zstd' (not 'none')", "zstd"))
