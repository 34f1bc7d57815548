"""The numbers of pictures in MPEG-1 and MPEG-2 (ITU-T H.262), and in MPEG-4 part 2 (ISO/IEC 14496-2)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

from streamtok.io.nal_units import START, Bits
from streamtok.io.shown_order import Order, Shown

PICTURE, GROUP, SEQUENCE_END = b"\0\0\1\0", b"\0\0\1\xb8", b"\0\0\1\xb7"  # start codes of MPEG-2
LAST_SLICE, B_PICTURE = 0xAF, 3
MPEG2_NUMBERS = 1024  # to which it counts
LAYERS, PLANE = range(0x20, 0x30), 0xB6  # behind a start code of MPEG-4: how its pictures are coded; a picture
PICTURE_OF_4 = re.compile(START + bytes([PLANE]))
I_PLANE, B_PLANE = 0, 2
LONG_FORMAT, OWN_RATIO = 1, 15  # values of its fields
BUFFER_BITS = 79  # of the fields on buffers
MPEG4_NUMBERS = 1 << 10  # to which pictures are counted here
OFF_GRID = 8  # a share of the time of a picture: so much beside the rate says that there is none
LONGEST_HEADER, HEAD = 32, 512  # bytes: of one header, and of all before a picture
START_CODE = re.compile(START + rb"([\0-\xff])")


def read_mpeg2(data: bytes) -> Shown | Order:
    """temporal_reference (ITU-T H.262, 6.3.9), which counts the pictures of a group; MPEG-1 has it too.

    Nothing counts the last pictures of a group.
    """
    at = data.find(PICTURE)
    if not any(1 <= code <= LAST_SLICE for code in _codes_behind(data, at)):
        return Order(empty=not data.startswith(SEQUENCE_END))
    head = int.from_bytes(data[at + 4 : at + 6], "big")
    return Shown(head >> 6, MPEG2_NUMBERS, head >> 3 & 7 == B_PICTURE, GROUP in data[:at], twice=True)


class Mpeg4Numbers:
    """Reads when pictures of MPEG-4 are shown (vop_time_increment), as numbers at a constant rate.

    Once a picture lies beside the `rate`, or two are in one packet (as AVI has B-pictures), nothing more is read.
    """

    def __init__(self, extradata: bytes | None, rate: Fraction) -> None:
        self._rate, self._follows = rate, True
        self._resolution = 0  # ticks of a second
        self._seconds = self._before = 0  # of the latest reference picture, and of the one before
        self._read_layers(extradata or b"")

    def read(self, data: bytes) -> Shown | Order:
        """The number of a picture; an empty `Order` where nothing says it."""
        self._read_layers(data)
        at = _find(data, (PLANE,))
        self._follows = self._follows and PICTURE_OF_4.search(data, max(at, 0)) is None
        if at < 0 or not self._resolution or not self._follows:
            return Order()
        bits = Bits(data[at : at + LONGEST_HEADER], escaped=False)
        kind, seconds = bits.take(2), 0
        while bits.take(1):
            seconds += 1
        bits.take(1)
        if kind != B_PLANE:
            self._before, self._seconds = self._seconds, self._seconds + seconds
        base = self._before + seconds if kind == B_PLANE else self._seconds
        ticks = base * self._resolution + bits.take((self._resolution - 1).bit_length() or 1)
        shares, whole = ticks * self._rate.numerator, self._resolution * self._rate.denominator
        number = (shares + whole // 2) // whole
        if OFF_GRID * abs(shares - number * whole) > whole:
            self._follows = False
            return Order()
        return Shown(number % MPEG4_NUMBERS, MPEG4_NUMBERS, kind == B_PLANE, clean=kind == I_PLANE, twice=True)

    def _read_layers(self, data: bytes) -> None:
        """Take the resolution of times from the header of a video object layer (6.2.3), where there is one."""
        at = _find(data, LAYERS)
        if at < 0:
            return
        bits = Bits(data[at : at + LONGEST_HEADER], escaped=False)
        bits.take(9)
        version = bits.take(7) >> 3 if bits.take(1) else 1
        if bits.take(4) == OWN_RATIO:
            bits.take(16)
        if bits.take(1):
            bits.take(3)
            bits.take(BUFFER_BITS * bits.take(1))
        shape = bits.take(2)
        bits.take(4 * (shape == 3 and version != 1) + 1)
        self._resolution = bits.take(16)


def _find(data: bytes, codes: range | tuple[int, ...]) -> int:
    """The place behind the first start code near the beginning that is one of those; negative if there is none."""
    places = (match.start() for match in START_CODE.finditer(data, 0, HEAD) if match[1][0] in codes)
    return next(places, -5) + 4


def _codes_behind(data: bytes, at: int) -> Iterator[int]:
    """The start codes behind the one at a place, of which there is none if it is negative."""
    while at >= 0:
        at = data.find(START, at + 3)
        if 0 <= at < len(data) - 3:
            yield data[at + 3]
