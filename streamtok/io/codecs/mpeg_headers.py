"""The numbers of pictures in MPEG-1 and MPEG-2 (ITU-T H.262)."""

from __future__ import annotations

from collections.abc import Iterator

from streamtok.io.codecs.nal_units import START
from streamtok.io.codecs.shown_order import Order, Shown

PICTURE, GROUP, SEQUENCE_END = b"\0\0\1\0", b"\0\0\1\xb8", b"\0\0\1\xb7"  # start codes of MPEG-2
LAST_SLICE, B_PICTURE = 0xAF, 3
NUMBERS = 1024  # to which it counts


def read_mpeg2(data: bytes) -> Shown | Order:
    """temporal_reference (ITU-T H.262, 6.3.9), which counts the pictures of a group; MPEG-1 has it too.

    Nothing counts the last pictures of a group.
    """
    at = data.find(PICTURE)
    if not any(1 <= code <= LAST_SLICE for code in _codes_behind(data, at)):
        return Order(empty=not data.startswith(SEQUENCE_END))
    head = int.from_bytes(data[at + 4 : at + 6], "big")
    return Shown(head >> 6, NUMBERS, head >> 3 & 7 == B_PICTURE, GROUP in data[:at], twice=True)


def _codes_behind(data: bytes, at: int) -> Iterator[int]:
    """The start codes behind the one at a place, none if it is negative."""
    while at >= 0:
        at = data.find(START, at + 3)
        if 0 <= at < len(data) - 3:
            yield data[at + 3]
