"""The messages of wire version 1: typed headers and their packing. docs/wire-protocol.md says the same in words.

Every message has three parts: topic, header (a msgpack map) and payload. Readers check all of them; what does not
fit raises `WireError` and costs nothing beyond the parts that were received.
"""

import itertools
import math
import zlib
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct

from streamtok.names import NAME
from streamtok.wire import compression
from streamtok.wire.errors import WireError

VERSION: Final = 1
DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4"), "float16": np.dtype("<f2")}
MAX_CODES = 2**31
RAW_PIXEL_BYTES = {"rgb8": (3, 1), "bgr8": (3, 1), "mono8": (1, 1), "uyvy": (2, 1), "yuyv": (2, 1)}
RAW_PIXEL_BYTES |= {"nv12": (3, 2), "i420": (3, 2)}
RAW_PIXEL_BYTES |= {f"bayer_{order}8": (1, 1) for order in ("rggb", "bggr", "gbrg", "grbg")}

Name = Annotated[str, Meta(pattern=rf"\A{NAME}\Z")]
Session = Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Last = Annotated[int, Meta(ge=-1, le=2**63 - 1)]
Time = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Size = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Sizes = Annotated[list[Size], Meta(min_length=2, max_length=2)]
Grid = Annotated[list[Size], Meta(min_length=2, max_length=3)]
Levels = Annotated[list[Annotated[int, Meta(ge=2, le=MAX_CODES)]], Meta(max_length=32)]
Times = Annotated[list[Time], Meta(min_length=1, max_length=256)]
Counts = Annotated[list[Count], Meta(min_length=1, max_length=256)]
Text = Annotated[str, Meta(max_length=256)]
Fingerprint = Annotated[str, Meta(min_length=1, max_length=128)]


@dataclass(frozen=True)
class Limits:
    """What a reader accepts, so that no sender can make it allocate more.

    `max_grid` is in elements of one token grid, the others in bytes.
    """

    max_grid: int = 1 << 22
    max_header: int = 1 << 16
    max_frame: int = 1 << 26

    @property
    def max_part(self) -> int:
        """Largest part of any message, bytes: for ZMQ_MAXMSGSIZE."""
        return max(self.max_grid * 4 + self.max_header, self.max_frame)


class TokenHeader(Struct, kw_only=True, frozen=True):
    """Header of `tokens/<stream>`, as fixed by the protocol; times in ns, sizes as [h, w]."""

    version: Literal[1] = VERSION
    stream: Name
    session: Session
    epoch: Count
    seq: Count
    keyframe: bool
    tokenizer: Fingerprint
    frame_ids: Counts
    capture_ns: Times
    dropped: Count
    repeated: Count
    grid: Grid
    dtype: Literal["uint16", "uint32", "float16"]
    levels: Levels
    image_size: Sizes
    encode_ns: Count
    publish_ns: Time
    compression: Literal["none", "zstd"]
    checksum: Annotated[int, Meta(ge=0, le=2**32 - 1)]

    def __post_init__(self) -> None:
        if len(self.frame_ids) != len(self.capture_ns):
            raise ValueError(f"{len(self.frame_ids)} frame_ids and {len(self.capture_ns)} capture_ns, expected as many")
        for name in ("frame_ids", "capture_ns"):
            values = getattr(self, name)
            if any(later <= earlier for earlier, later in itertools.pairwise(values)):
                raise ValueError(f"{name} {values[:8]} do not rise strictly")
        if self.keyframe and len(self.frame_ids) != 1:
            raise ValueError(f"a keyframe of {len(self.frame_ids)} frames, expected one")
        check_grid(self.grid, self.dtype, self.levels)

    @property
    def nbytes(self) -> int:
        """Bytes of the payload when it is not compressed."""
        return math.prod(self.grid) * DTYPES[self.dtype].itemsize


class Info(Struct, kw_only=True, frozen=True):
    """Header of `info/<stream>`: all that stays the same from message to message, and the publisher's clock.

    `metadata` is what whoever set up the stream says of it, calibration for example; nothing here reads it. The
    publisher fills in `node`, `session`, `epoch`, `last_seq`, `control`, `ended` and `clock`.
    """

    version: Literal[1] = VERSION
    stream: Name
    node: Name = "node"
    session: Session = "0" * 32
    tokenizer: Fingerprint
    model: Text = ""
    grid: Grid
    dtype: Literal["uint16", "uint32", "float16"]
    levels: Levels
    image_size: Sizes
    compression: Literal["none", "zstd"] = "none"
    temporal_compression: Size = 1
    spatial_compression: Size = 8
    context: Size | None = None
    predictive: bool = False
    engine: dict[str, Any] = {}
    batch: Annotated[list[Name], Meta(max_length=256)] = []
    frame_rate: Annotated[float, Meta(gt=0)] | None = None
    keyframe_interval: Annotated[float, Meta(ge=0)] = 0.0
    source_size: Sizes | None = None
    source_rect: Annotated[list[Count], Meta(min_length=4, max_length=4)] | None = None
    requested_size: Sizes | None = None
    fit: Text = "stretch"
    metadata: dict[str, Any] = {}
    epoch: Last = -1
    last_seq: Last = -1
    control: Text | None = None
    replay: bool = False
    ended: bool = False
    clock: tuple[Time, Time] = (0, 0)

    def __post_init__(self) -> None:
        check_grid(self.grid, self.dtype, self.levels)


class FrameHeader(Struct, kw_only=True, frozen=True):
    """Header of `frames/<stream>`: one camera image, raw rows without padding or one compressed packet."""

    version: Literal[1] = VERSION
    stream: Name
    session: Session
    seq: Count
    frame_id: Count
    capture_ns: Time
    publish_ns: Time
    encoding: Annotated[str, Meta(pattern=r"\A[a-z0-9_]{1,32}\Z")]
    image_size: Sizes
    checksum: Annotated[int, Meta(ge=0, le=2**32 - 1)] | None = None

    @property
    def nbytes(self) -> int | None:
        """Bytes of the payload for a raw encoding, None for a compressed one."""
        if self.encoding not in RAW_PIXEL_BYTES:
            return None
        numerator, denominator = RAW_PIXEL_BYTES[self.encoding]
        return math.prod(self.image_size) * numerator // denominator


class Status(Struct, kw_only=True, frozen=True):
    """Header of `status/<node>`: what the node counts, for people and dashboards."""

    version: Literal[1] = VERSION
    node: Name
    session: Session
    time_ns: Time
    values: dict[str, Any]


class _Version(Struct):
    version: int


@dataclass(frozen=True)
class TokenMessage:
    """One token grid with its header.

    `tokens` (h, w), (Q, h, w) uint16 or uint32, or (C, h, w) float16: a read-only view of the received bytes.
    `decodable` is False from a loss (or from joining) until the next keyframe; `lost` counts the messages of this
    stream that are missing just before this one; `catch_up` is True for what came with joining: the epoch so far, and
    what waited for it. `payload` is as sent, still compressed if the header says so.
    """

    header: TokenHeader
    tokens: np.ndarray
    payload: bytes | memoryview = field(default=b"", repr=False)
    decodable: bool = True
    lost: int = 0
    catch_up: bool = False

    @property
    def stream(self) -> str:
        """Name of the stream."""
        return self.header.stream

    @property
    def capture_ns(self) -> int:
        """Capture time of the newest frame in this group, ns."""
        return self.header.capture_ns[-1]

    @property
    def parts(self) -> list[bytes | memoryview]:
        """Topic, header and payload, to forward or record."""
        return pack(self.header, self.payload)

    def torch(self, device: Any = None) -> Any:
        """A copy of the tokens as a torch tensor: int32 indices (..., h, w) or float16 latents (C, h, w)."""
        import torch

        dtype = np.float16 if self.header.dtype == "float16" else np.int32
        return torch.from_numpy(self.tokens.astype(dtype)).to(device)


@dataclass(frozen=True)
class FrameMessage:
    """One camera image: `payload` holds raw rows or one compressed packet, as `header.encoding` says."""

    header: FrameHeader
    payload: bytes | memoryview = field(repr=False)


Header = TokenHeader | Info | FrameHeader | Status
_TOPICS = {TokenHeader: "tokens", Info: "info", FrameHeader: "frames"}


def check_grid(grid: list[int], dtype: str, levels: list[int]) -> None:
    """Raise ValueError unless grid, dtype and levels describe one kind of tokenizer."""
    if dtype == "float16":
        if levels or len(grid) != 3:
            raise ValueError(f"float16 with grid {grid} and levels {levels}, expected [C, h, w] and no levels")
        return
    codes = math.prod(levels)
    if not levels or codes > MAX_CODES:
        raise ValueError(f"levels {levels} make {codes} codes, expected 2 to {MAX_CODES}")
    expected = "uint16" if codes <= 65536 else "uint32"
    if dtype != expected:
        raise ValueError(f"dtype {dtype} for {codes} codes, expected {expected}")


def topic_of(header: Header) -> bytes:
    """The topic that a header is sent under."""
    if isinstance(header, Status):
        return f"status/{header.node}".encode()
    return f"{_TOPICS[type(header)]}/{header.stream}".encode()


def checksum_of(payload: bytes | memoryview) -> int:
    """zlib CRC-32 of a payload as sent."""
    return zlib.crc32(payload)


def encode(value: Any) -> bytes:
    """One msgpack value; numpy scalars become numbers, and what msgpack does not know becomes text."""
    return msgspec.msgpack.encode(value, enc_hook=lambda odd: odd.item() if isinstance(odd, np.generic) else str(odd))


def pack(header: Header, payload: bytes | memoryview = b"") -> list[bytes | memoryview]:
    """The three parts of a message: topic, header, payload."""
    return [topic_of(header), encode(header), payload]


def unpack(parts: list[Any], limits: Limits = Limits()) -> TokenMessage:
    """Check a `tokens/<stream>` message and give its grid as a view; raises WireError."""
    header, payload = _open(parts, TokenHeader, limits)
    if math.prod(header.grid) > limits.max_grid:
        raise WireError("size", f"grid {header.grid} has more than the {limits.max_grid} elements accepted (max_grid)")
    _check_sum(header.checksum, payload)
    data: bytes | memoryview = payload
    if header.compression == "zstd":
        data = compression.decompress(payload, header.nbytes)
    if len(data) != header.nbytes:
        raise WireError("size", f"payload of {len(data)} bytes, grid {header.grid} {header.dtype} has {header.nbytes}")
    return TokenMessage(header, _view(data, header), payload)


def unpack_info(parts: list[Any], limits: Limits = Limits()) -> Info:
    """Check an `info/<stream>` message; raises WireError."""
    return _open(parts, Info, limits)[0]


def unpack_frame(parts: list[Any], limits: Limits = Limits()) -> FrameMessage:
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


def unpack_status(parts: list[Any], limits: Limits = Limits()) -> Status:
    """Check a `status/<node>` message; raises WireError."""
    return _open(parts, Status, limits)[0]


def decode_map(data: Any, kind: Any, limits: Limits = Limits()) -> Any:
    """Decode one msgpack value into the type `kind`; raises WireError."""
    if len(data) > limits.max_header:
        raise WireError("header", f"header of {len(data)} bytes, accepted up to {limits.max_header}")
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError("header", f"{getattr(kind, '__name__', kind)}: {error}") from error


def check_version(data: Any, limits: Limits = Limits()) -> None:
    """Raise WireError naming both versions unless the map in `data` is of this version."""
    version = decode_map(data, _Version, limits).version
    if version != VERSION:
        raise WireError("version", f"message of wire version {version}, this reader knows version {VERSION}")


def _open(parts: list[Any], kind: type, limits: Limits) -> tuple[Any, memoryview]:
    if len(parts) != 3:
        raise WireError("parts", f"message of {len(parts)} parts, expected 3: topic, header, payload")
    try:
        topic, head, payload = (memoryview(part) for part in parts)
    except TypeError as error:
        raise WireError("parts", f"parts of types {[type(part).__name__ for part in parts]}, expected bytes") from error
    check_version(head, limits)
    header = decode_map(head, kind, limits)
    if bytes(topic[:128]) != topic_of(header):
        raise WireError("topic", f"topic {bytes(topic[:80])!r} does not match its header's {topic_of(header)!r}")
    return header, payload


def _check_sum(expected: int, payload: memoryview) -> None:
    found = checksum_of(payload)
    if found != expected:
        raise WireError("checksum", f"payload has CRC-32 {found:#010x}, its header says {expected:#010x}")


def _view(data: bytes | memoryview, header: TokenHeader) -> np.ndarray:
    tokens = np.frombuffer(data, DTYPES[header.dtype]).reshape(header.grid)
    if not tokens.flags.aligned:
        tokens = tokens.copy()
    tokens.flags.writeable = False
    codes = math.prod(header.levels)
    if header.levels and int(tokens.max()) >= codes:
        raise WireError("values", f"token {int(tokens.max())} in a grid of {codes} codes")
    return tokens
