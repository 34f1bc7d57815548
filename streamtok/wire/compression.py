"""zstd compression of payloads, bounded by the size that the header declares. It needs the `zstandard` package."""

from types import ModuleType

from streamtok.extras import needs_extra
from streamtok.wire.errors import WireError

LEVEL = 1


def check(compression: str) -> None:
    """Raise ImportError, with the command to install it, if `compression` is zstd and the package is missing."""
    if compression == "zstd":
        _zstandard()


def compress(payload: bytes) -> bytes:
    """Compress to one zstd frame that declares its content size."""
    return _zstandard().ZstdCompressor(level=LEVEL, write_content_size=True).compress(payload)


def decompress(payload: bytes | memoryview, expected: int) -> bytes:
    """Decompress one zstd frame of `expected` bytes; another declared size is a WireError before any allocation.

    Raises ImportError if the package is missing.
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
    with needs_extra("compression 'zstd' (not 'none')", "zstd"):
        import zstandard
    return zstandard
