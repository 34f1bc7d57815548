"""Picture numbers and field pairs of MPEG-1 and MPEG-2, from picture headers (ITU-T H.262)."""

import re
from collections.abc import Iterator

from streamtok.io.codecs.nal_units import START
from streamtok.io.codecs.shown_order import Order, Shown

PICTURE, GROUP, SEQUENCE_END = b"\0\0\1\0", b"\0\0\1\xb8", b"\0\0\1\xb7"  # start codes of MPEG-2
LAST_SLICE, B_PICTURE = 0xAF, 3
STRUCTURE = re.compile(rb"\x00\x00\x01\xb5[\x80-\x8f].(.)", re.DOTALL)  # of a picture coding extension
FRAME, TOP, BOTTOM = 3, 1, 2  # values of picture_structure
NUMBERS = 1024  # temporal_reference has 10 bits


def read_mpeg2(data: bytes) -> Shown | Order:
    """Read temporal_reference (ITU-T H.262, 6.3.9), which numbers the pictures of a group; MPEG-1 has it too.

    It cannot show that the last pictures of a group are missing.
    """
    at = data.find(PICTURE)
    if not any(1 <= code <= LAST_SLICE for code in _codes_behind(data, at)):
        return Order(empty=not data.startswith(SEQUENCE_END))
    head = int.from_bytes(data[at + 4 : at + 6], "big")
    between, begins = head >> 3 & 7 == B_PICTURE, GROUP in data[:at]
    return Shown(head >> 6, NUMBERS, between, begins, twice=any(one != FRAME for one in _structures(data)))


class PairedFields:
    """Tells whether a packet of MPEG-2 holds a whole frame: one frame picture, or two fields that belong together.

    Such fields have opposite parity, one number and as many slices. If one is missing, the other comes alone, or
    FFmpeg's parser joins it to a field of the next picture. Single fields are fine in streams where most come alone.
    """

    def __init__(self) -> None:
        self._alone = self._paired = 0

    def __call__(self, data: bytes) -> bool:
        kinds = _structures(data)
        if kinds.count(FRAME) == len(kinds):
            return True
        self._alone, self._paired = self._alone + (len(kinds) == 1), self._paired + (len(kinds) > 1)
        if len(kinds) == 1:
            return self._alone > self._paired
        second = data.rfind(PICTURE)
        fields = data[data.find(PICTURE) : second], data[second:]
        numbers = {int.from_bytes(field[4:6], "big") >> 6 for field in fields}
        slices = {max(filter(LAST_SLICE.__ge__, _codes_behind(field, 0)), default=0) for field in fields}
        return sorted(kinds) == [TOP, BOTTOM] and len(numbers) == len(slices) == 1


def _structures(data: bytes) -> list[int]:
    """picture_structure (6.3.10) of each picture of MPEG-2; MPEG-1 has none."""
    return [match[1][0] & 3 for match in STRUCTURE.finditer(data)]


def _codes_behind(data: bytes, at: int) -> Iterator[int]:
    """The start codes after position `at`; none if that is negative."""
    while at >= 0:
        at = data.find(START, at + 3)
        if 0 <= at < len(data) - 3:
            yield data[at + 3]
