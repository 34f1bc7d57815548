"""Packs and unpacks the messages of wire version 1; docs/wire-protocol.md describes them.

Every message has three parts: topic, header (a msgpack map) and payload. Readers check all of them; a malformed one
raises `WireError` and allocates nothing beyond the received parts.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import msgspec
import numpy as np

from streamtok.wire import compression
from streamtok.wire.errors import WireError
from streamtok.wire.header import (
    DTYPES,
    LIMITS,
    VERSION,
    FrameHeader,
    Header,
    Info,
    Limits,
    Status,
    TokenHeader,
    make_topic,
)

if TYPE_CHECKING:
    import torch

Part = bytes | memoryview
Value = TypeVar("Value")
ReadHeader = TypeVar("ReadHeader", TokenHeader, Info, FrameHeader, Status)


class _Version(msgspec.Struct):
    version: int


@dataclass(frozen=True)
class TokenMessage:
    """One token grid with its header.

    `grid` holds the tokens, or None if a coded or zstd payload cannot be read here; `unreadable` then says why.
    `decodable` is False from a loss (or from joining) until the next keyframe. `lost` counts the messages of this
    stream that are missing just before this one. `catch_up` is True for messages of a late join: those of the epoch,
    and live ones held back for it. `payload` is as sent, still compressed if the header says so. `info` is the newest
    one that came before the message, None if there was none.
    """

    header: TokenHeader
    grid: np.ndarray | None
    payload: Part = field(default=b"", repr=False)
    decodable: bool = True
    lost: int = 0
    catch_up: bool = False
    unreadable: str = ""
    info: Info | None = field(default=None, repr=False)

    @property
    def tokens(self) -> np.ndarray:
        """The grid: (h, w), (Q, h, w) uint16 or uint32, or (C, h, w) float16; a read-only view of the received bytes.

        Raises WireError for a message that cannot be read here.
        """
        if self.grid is None:
            raise WireError("coding", f"{self.stream} seq {self.header.seq}: {self.unreadable or 'not decoded yet'}")
        return self.grid

    @property
    def stream(self) -> str:
        """Name of the stream."""
        return self.header.stream

    @property
    def capture_ns(self) -> int:
        """Capture time of the newest frame in this group, ns."""
        return self.header.capture_ns[-1]

    @property
    def parts(self) -> list[Part]:
        """Topic, header and payload, for forwarding and recording."""
        return pack(self.header, self.payload)

    def torch(self, device: "torch.device | str | None" = None) -> "torch.Tensor":
        """A copy of the tokens as a torch tensor: int32 indices (..., h, w) or float16 latents (C, h, w)."""
        import torch

        dtype = np.float16 if self.header.dtype == "float16" else np.int32
        return torch.from_numpy(self.tokens.astype(dtype)).to(device)


@dataclass(frozen=True)
class FrameMessage:
    """One camera image: `payload` holds raw rows or one compressed packet, as `header.encoding` says.

    `lost` counts the images of this stream that are missing just before this one.
    """

    header: FrameHeader
    payload: Part = field(repr=False)
    lost: int = 0

    @property
    def stream(self) -> str:
        """Name of the stream."""
        return self.header.stream


def compute_checksum(payload: Part) -> int:
    """The CRC-32 (zlib) of a payload as sent."""
    return zlib.crc32(payload)


def encode(value: object) -> bytes:
    """Encode one msgpack value; numpy scalars become numbers, and unknown types become text."""
    return msgspec.msgpack.encode(value, enc_hook=lambda odd: odd.item() if isinstance(odd, np.generic) else str(odd))


def pack(header: Header, payload: Part = b"") -> list[Part]:
    """The three parts of a message: topic, header, payload."""
    return [make_topic(header), encode(header), payload]


def unpack(parts: Sequence[Part], limits: Limits = LIMITS) -> TokenMessage:
    """Check a `tokens/<stream>` message and view its grid; raises WireError. See `unpack_grid` for coded grids."""
    return unpack_grid(check_tokens(parts, limits))


def check_tokens(parts: Sequence[Part], limits: Limits, grids: Sequence[list[int]] | None = None) -> TokenMessage:
    """Check a `tokens/<stream>` message; raises WireError. A compressed grid stays packed: it may be large, and wait.

    With `grids`, a grid of another shape is refused.
    """
    header, payload = _open(parts, TokenHeader, limits)
    if grids is not None and header.grid not in grids:
        raise WireError("grid", f"grid {header.grid} of stream {header.stream!r}, its info says {list(grids)}")
    if math.prod(header.grid) > limits.max_grid:
        raise WireError("size", f"grid {header.grid} has more than the {limits.max_grid} elements accepted (max_grid)")
    _check_sum(header.checksum, payload)
    message = TokenMessage(header, None, payload)
    return unpack_grid(message) if header.compression == "none" else message


def unpack_grid(message: TokenMessage) -> TokenMessage:
    """Return the message with its grid, or `unreadable` if the zstd package is missing; raises WireError.

    Coded grids are left to `coded.GridReader`, which needs a stream's messages in order.
    """
    header, data = message.header, message.payload
    if header.compression == "coded" or message.grid is not None:
        return message
    if header.compression == "zstd":
        try:
            data = compression.decompress(data, header.nbytes)
        except ImportError as error:  # a zstd stream must not end a reader of other streams
            return replace(message, unreadable=str(error))
    if len(data) != header.nbytes:
        raise WireError("size", f"payload of {len(data)} bytes, grid {header.grid} {header.dtype} has {header.nbytes}")
    return replace(message, grid=_view(data, header))


def unpack_info(parts: Sequence[Part], limits: Limits = LIMITS) -> Info:
    """Check an `info/<stream>` message; raises WireError."""
    return _open(parts, Info, limits)[0]


def unpack_frame(parts: Sequence[Part], limits: Limits = LIMITS) -> FrameMessage:
    """Check a `frames/<stream>` message; raises WireError."""
    header, payload = _open(parts, FrameHeader, limits)
    if len(payload) > limits.max_frame or (header.nbytes or 0) > limits.max_frame:
        raise WireError("size", f"frame {header.image_size} of {len(payload)} bytes, accepted up to {limits.max_frame}")
    if header.nbytes is not None and len(payload) != header.nbytes:
        raise WireError(
            "size", f"{header.encoding} frame {header.image_size} of {len(payload)} bytes, not {header.nbytes}"
        )
    if header.checksum is not None:
        _check_sum(header.checksum, payload)
    return FrameMessage(header, payload)


def unpack_status(parts: Sequence[Part], limits: Limits = LIMITS) -> Status:
    """Check a `status/<node>` message; raises WireError."""
    return _open(parts, Status, limits)[0]


def decode_map(data: Part | msgspec.Raw, kind: type[Value], limits: Limits = LIMITS) -> Value:
    """Decode one msgpack value into the type `kind`; raises WireError."""
    size = memoryview(data).nbytes
    if size > limits.max_header:
        raise WireError("header", f"header of {size} bytes, accepted up to {limits.max_header}")
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError("header", f"{getattr(kind, '__name__', kind)}: {error}") from error


def check_version(data: Part, limits: Limits = LIMITS) -> None:
    """Raise WireError naming both versions unless the map in `data` is of this version."""
    version = decode_map(data, _Version, limits).version
    if version != VERSION:
        raise WireError("version", f"message of wire version {version}, this reader knows version {VERSION}")


def _open(parts: Sequence[Part], kind: type[ReadHeader], limits: Limits) -> tuple[ReadHeader, memoryview]:
    if len(parts) != 3:
        raise WireError("parts", f"message of {len(parts)} parts, expected 3: topic, header, payload")
    try:
        topic, head, payload = (memoryview(part) for part in parts)
    except TypeError as error:
        raise WireError("parts", f"parts of types {[type(part).__name__ for part in parts]}, expected bytes") from error
    check_version(head, limits)
    header = decode_map(head, kind, limits)
    if bytes(topic[:128]) != make_topic(header):
        raise WireError("topic", f"topic {bytes(topic[:80])!r} does not match its header's {make_topic(header)!r}")
    return header, payload


def _check_sum(expected: int, payload: memoryview) -> None:
    found = compute_checksum(payload)
    if found != expected:
        raise WireError("checksum", f"payload has CRC-32 {found:#010x}, its header says {expected:#010x}")


def _view(data: Part, header: TokenHeader) -> np.ndarray:
    tokens = np.frombuffer(data, DTYPES[header.dtype]).reshape(header.grid)
    if not tokens.flags.aligned:
        tokens = tokens.copy()
    tokens.flags.writeable = False
    codes = math.prod(header.levels)
    if header.levels and int(tokens.max()) >= codes:
        raise WireError("values", f"token {int(tokens.max())} in a grid of {codes} codes")
    return tokens
