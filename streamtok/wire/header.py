"""The headers of wire version 1 as msgspec types, which check every field; docs/wire-protocol.md describes them."""

import itertools
import math
import sys
import time
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import numpy as np
from msgspec import UNSET, Meta, Struct, UnsetType

from streamtok.names import NAME
from streamtok.preprocessing.pixels import CHANNELS

VERSION: Final = 1
DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4"), "float16": np.dtype("<f2")}
MAX_CODES = 2**31
MAX_FINITE = sys.float_info.max  # JSON has no infinity, and a page could not parse one
RAW_PIXEL_BYTES = {"rgb8": (3, 1), "bgr8": (3, 1), "mono8": (1, 1), "uyvy": (2, 1), "yuyv": (2, 1)}
RAW_PIXEL_BYTES |= {"nv12": (3, 2), "i420": (3, 2)}
RAW_PIXEL_BYTES |= {f"bayer_{order}8": (1, 1) for order in ("rggb", "bggr", "gbrg", "grbg")}
RAW_PIXEL_BYTES |= {name: (count, 1) for name, count in CHANNELS.items()}

Name = Annotated[str, Meta(pattern=rf"\A{NAME}\Z")]
Session = Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Last = Annotated[int, Meta(ge=-1, le=2**63 - 1)]
Time = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Size = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Sizes = Annotated[list[Size], Meta(min_length=2, max_length=2)]
Grid = Annotated[list[Size], Meta(min_length=2, max_length=3)]
Levels = Annotated[list[Annotated[int, Meta(ge=2, le=MAX_CODES)]], Meta(max_length=32)]
CaptureTimes = Annotated[list[Time], Meta(min_length=1, max_length=256)]
Counts = Annotated[list[Count], Meta(min_length=1, max_length=256)]
Text = Annotated[str, Meta(max_length=256)]
Hold = Annotated[float, Meta(ge=0, le=1)]
Fingerprint = Annotated[str, Meta(min_length=1, max_length=128)]


def system_clock_pair() -> tuple[int, int]:
    """(monotonic ns, UTC ns) of one instant, within the microsecond that reading both takes."""
    before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
    return (before + after) // 2, wall


@dataclass(frozen=True)
class Limits:
    """The sizes that a reader accepts, so that no sender can make it allocate more.

    `max_grid` is in elements of one token grid, the others are in bytes.
    """

    max_grid: int = 1 << 22
    max_header: int = 1 << 16
    max_frame: int = 1 << 26

    @property
    def max_part(self) -> int:
        """The largest part of any message in bytes, for ZMQ_MAXMSGSIZE."""
        return max(self.max_grid * 4 + self.max_header, self.max_frame)


LIMITS: Final = Limits()


class Coding(Struct, frozen=True):
    """How a payload of compression `coded` was made.

    `coder` is the coder's fingerprint, `checksum` the CRC-32 of the grid as in an uncompressed payload. `independent`
    grids are coded by themselves, and keyframes always are.
    """

    coder: Fingerprint
    checksum: Annotated[int, Meta(ge=0, le=2**32 - 1)]
    independent: bool = False


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
    capture_ns: CaptureTimes
    dropped: Count
    repeated: Count
    grid: Grid
    dtype: Literal["uint16", "uint32", "float16"]
    levels: Levels
    image_size: Sizes
    encode_ns: Count
    publish_ns: Time
    compression: Literal["none", "zstd", "coded"]
    checksum: Annotated[int, Meta(ge=0, le=2**32 - 1)]
    coding: Coding | UnsetType = UNSET
    hold: Hold | UnsetType = UNSET

    def __post_init__(self) -> None:
        if (self.compression == "coded") != isinstance(self.coding, Coding):
            raise ValueError(f"compression {self.compression!r}: expected `coding` with coded, and with nothing else")
        if self.compression == "coded" and (len(self.grid) != 2 or not self.levels):
            raise ValueError(f"coded grid {self.grid} of levels {self.levels}, expected [h, w] of a discrete tokenizer")
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
        """Bytes of the uncompressed payload."""
        return math.prod(self.grid) * DTYPES[self.dtype].itemsize


class Info(Struct, kw_only=True, frozen=True):
    """Header of `info/<stream>`: the facts that are the same for all messages, and the publisher's clock.

    `metadata` are the user's own facts, calibration for example, which are passed through. The publisher fills in
    `node`, `session`, `epoch`, `last_seq`, `control`, `ended` and `clock`.
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
    compression: Literal["none", "zstd", "coded"] = "none"
    coder: Fingerprint | None = None
    temporal_compression: Size = 1
    spatial_compression: Size = 8
    context: Size | None = None
    predictive: bool = False
    refinement: Count = 0
    engine: dict[str, Any] = {}
    batch: Annotated[list[Name], Meta(max_length=256)] = []
    frame_rate: Annotated[float, Meta(gt=0, le=MAX_FINITE)] | None = None
    keyframe_interval: Annotated[float, Meta(ge=0, le=MAX_FINITE)] = 0.0
    hold: Hold = 0.0
    bitrate: Size | None = None
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

    def to_utc(self, time_ns: int) -> int:
        """Convert a time (ns) on the node's clock to UTC (ns), by the clock pair of this info."""
        return time_ns - self.clock[0] + self.clock[1]


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
    """Header of `status/<node>`: the node's counters, for people and dashboards."""

    version: Literal[1] = VERSION
    node: Name
    session: Session
    time_ns: Time
    values: dict[str, Any]


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


def make_topic(header: Header) -> bytes:
    """The topic under which a header is sent."""
    if isinstance(header, Status):
        return f"status/{header.node}".encode()
    return f"{_TOPICS[type(header)]}/{header.stream}".encode()
