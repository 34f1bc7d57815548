"""Parsing of H.264 and H.265 access units: their NAL units, SEI messages and bits (ITU-T H.264 and H.265)."""

import re
from collections.abc import Iterator

HEVC_SEI = 39  # before slices; checksums of the picture follow them, in units of type 40
HEVC_SLICES = range(32)
SLICES = {"h264": range(1, 6), "hevc": HEVC_SLICES}
RECOVERY_POINT = 6  # payload type of an SEI message, in both
DISPLAY_ORIENTATION = 47
PICTURE_TIMING = 1  # says whether a picture is interlaced, on which the position of chroma depends
MESSAGE_HEAD = re.compile(rb"(\xff*[^\xff])(\xff*[^\xff])(?=.)", re.DOTALL)  # type and size, each a sum of its bytes
KEPT_MESSAGES = (PICTURE_TIMING, RECOVERY_POINT, DISPLAY_ORIENTATION)
ORIENTATION_SEI = {1: (0, 0), 2: (1, 0), 3: (0, 2), 4: (1, 2), 5: (1, 1), 6: (0, 3), 7: (1, 3), 8: (0, 1)}
"""EXIF orientation 1 to 8 -> (mirrored, then quarter turns anticlockwise)."""
START = b"\0\0\1"
HEADS = {"h264": {ref | kind for ref in (0, 32, 64, 96) for kind in (1, 5, 6, 7, 8, 9)}, "h265": range(0, 128, 2)}
"""First bytes of usual NAL units: they tell a length of 256 to 511 bytes before one from a start code."""
KEY_UNITS = {"h264": range(5, 6), "hevc": range(16, 24)}  # types of NAL units at which decoding can start
PARAMETER_UNIT, DELIMITER_UNIT = {"h264": 7, "hevc": 33}, {"h264": 9, "hevc": 35}
HEADER_UNITS = {"h264": range(6, 10), "hevc": (*range(32, 36), HEVC_SEI)}
"""Types of NAL units that only describe pictures: parameter sets, SEI messages, delimiters."""


class Bits:
    """Reads bits, and the Exp-Golomb codes of clause 9.1; reading past the end gives zeros.

    `escaped`: the data has emulation prevention bytes, which are removed.
    """

    def __init__(self, data: bytes, escaped: bool = True) -> None:
        plain = data.replace(b"\0\0\3", b"\0\0") if escaped else data
        self._value, self._left = int.from_bytes(plain, "big"), 8 * len(plain)

    def take(self, count: int) -> int:
        """The next `count` bits as a number."""
        self._left -= count
        value = self._value >> self._left if self._left >= 0 else 0
        return value & ((1 << count) - 1)

    def ue(self) -> int:
        """The next unsigned Exp-Golomb code."""
        zeros = 0
        while not self.take(1):
            zeros += 1
            if self._left <= 0:
                return 0
        return (1 << zeros) - 1 + self.take(zeros)

    def se(self) -> int:
        """The next signed Exp-Golomb code."""
        code = self.ue()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def split_units(data: bytes, length_size: int) -> Iterator[bytes]:
    """The NAL units of an access unit, each after a length of `length_size` bytes, or after a start code if it is 0."""
    if not length_size:
        at = data.find(START)
        while at >= 0:
            following = data.find(START, at + 3)
            yield data[at + 3 : following if following >= 0 else len(data)]
            at = following
        return
    at = 0
    while at + length_size < len(data):
        size = int.from_bytes(data[at : at + length_size], "big")
        at += length_size
        yield data[at : at + size]
        at += size


def with_start_codes(codec: str, data: bytes) -> bytes:
    """An access unit with its NAL units after start codes, also if they come after lengths of 4 bytes (AVCC)."""
    units = list(split_units(data, 4))
    fits = b"".join(len(unit).to_bytes(4, "big") + unit for unit in units) == data
    if not fits or data.startswith(b"\0" + START) or (data.startswith(START) and data[4] not in HEADS[codec]):
        return data
    return b"".join(b"\0" + START + unit for unit in units)


def read_length_size(codec: str, extradata: bytes | None) -> int:
    """The bytes of the length before each NAL unit, from a stream's extradata (avcC or hvcC); 0 for Annex B."""
    if not extradata or extradata[0] != 1:
        return 0
    at = 4 if codec == "h264" else 21
    return (extradata[at] & 3) + 1 if len(extradata) > at else 0


def without_sei(data: bytes, length_size: int) -> bytes:
    """Remove the SEI messages before the slices of an H.265 access unit, except those that decoders need.

    The others change no pixels, but a decoder that is set to refuse damage also refuses unusual ones.
    """
    kept, at = [], 0
    for unit in split_units(data, length_size):
        head = data[at : at + length_size] or START  # the length as stored: it shows that a unit is cut off
        at += length_size + len(unit)
        first_message = unit[2] if len(unit) > 2 else 0
        if unit and (unit[0] >> 1 & 63 != HEVC_SEI or first_message in KEPT_MESSAGES):
            kept.append(head + unit)
    return b"".join(kept)


def add_orientation(data: bytes, codec: str, orientation: int) -> bytes:
    """Add a display orientation SEI message (D.2.27; D.2.20) to an access unit (Annex B) of "h264" or "hevc"."""
    mirrored, turns = ORIENTATION_SEI[orientation]
    bits = f"0{mirrored:b}0{turns << 14:016b}1" + ("0" if codec == "h264" else "00") + "1"
    payload = int(bits.ljust(24, "0"), 2).to_bytes(3, "big").replace(b"\0\0", b"\0\0\3")
    head = b"\x06" if codec == "h264" else b"\x4e\x01"
    message = head + bytes([DISPLAY_ORIENTATION, 3]) + payload + b"\x80"
    units = list(split_units(data, 0))
    at = next((n for n, unit in enumerate(units) if unit and unit_type(codec, unit) in SLICES[codec]), len(units))
    return b"".join(b"\0" + START + unit for unit in [*units[:at], message, *units[at:]])


def parameter_sets(codec: str, extradata: bytes | None) -> list[bytes]:
    """The parameter sets of a stream's extradata: avcC or hvcC (ISO/IEC 14496-15, 5.3.3.1 and 8.3.3.1), or Annex B."""
    data = extradata or b""
    if not read_length_size(codec, data):
        return list(split_units(data, 0))
    if codec == "h264":
        sets, at = _take_sets(data, 6, data[5:6], 31)
        return sets + _take_sets(data, at + 1, data[at : at + 1])[0]
    sets, at = [], 23
    for _ in range(int.from_bytes(data[22:23], "big")):  # arrays, each of one type
        more, at = _take_sets(data, at + 3, data[at + 1 : at + 3])
        sets += more
    return sets


def _take_sets(data: bytes, at: int, count: bytes, mask: int = 0xFFFF) -> tuple[list[bytes], int]:
    """The next `count` (big-endian) parameter sets, and the position after them."""
    sets = []
    for _ in range(int.from_bytes(count, "big") & mask):
        size = int.from_bytes(data[at : at + 2], "big")
        sets.append(data[at + 2 : at + 2 + size])
        at += 2 + size
    return sets, at


def to_annex_b(data: bytes, codec: str, extradata: bytes | None) -> bytes:
    """The access unit as Annex B; one that decoding can start at gets the stream's parameter sets."""
    length_size = read_length_size(codec, extradata)
    if not length_size:
        return data
    units = [unit for unit in split_units(data, length_size) if unit]
    kinds = [unit_type(codec, unit) for unit in units]
    if any(kind in KEY_UNITS[codec] for kind in kinds) and PARAMETER_UNIT[codec] not in kinds:
        at = kinds[0] == DELIMITER_UNIT[codec]
        units[at:at] = parameter_sets(codec, extradata)
    return b"".join(b"\0" + START + unit for unit in units)


def unit_type(codec: str, unit: bytes) -> int:
    """The type of a NAL unit that is not empty."""
    return unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63


def holds_no_picture(codec: str, data: bytes) -> bool:
    """Whether an access unit (Annex B) of "h264" or "hevc" holds nothing but units of HEADER_UNITS."""
    units = split_units(data, 0)
    return START in data and all(unit and unit_type(codec, unit) in HEADER_UNITS[codec] for unit in units)


def read_messages(payload: bytes) -> Iterator[tuple[int, Bits]]:
    """The SEI messages of a NAL unit, given without its header: their types and contents."""
    data, at = payload.replace(b"\0\0\3", b"\0\0"), 0
    while head := MESSAGE_HEAD.match(data, at):
        kind, size = map(sum, head.groups())
        yield kind, Bits(data[head.end() : head.end() + max(size, 1)], escaped=False)
        at = head.end() + size
