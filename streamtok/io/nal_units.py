"""What the headers of H.264 and H.265 say about the order of pictures: what is missing, and where damage ends.

Decoders know both and do not tell: that of H.264 conceals a picture that never came, and neither says how far a stream
that is refreshed bit by bit (without key frames) has come. Clauses are those of ITU-T H.264 and H.265.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

IDR, SLICE, SEI, SPS, PPS = 5, 1, 6, 7, 8  # NAL unit types of H.264
HEVC_SEI = 39  # before slices; checksums of the picture follow them, in units of type 40
HEVC_SLICES = range(32)
RECOVERY_POINT = 6  # payload type of an SEI message, in both
DISPLAY_ORIENTATION = 47
ORIENTATION_SEI = {1: (0, 0), 2: (1, 0), 3: (0, 2), 4: (1, 2), 5: (1, 1), 6: (0, 3), 7: (1, 3), 8: (0, 1)}
"""Of the orientations 1 to 8: whether they mirror, and the quarters of a turn, anticlockwise, that follow."""
HIGH_PROFILES = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)
MOST_REORDERED = 4  # pictures by which the order of decoding may run ahead in streams without key frames
LONGEST_HEADER = 64  # bytes of a slice that are looked at
START = b"\0\0\1"


class Bits:
    """Reads bits, and the variable-length codes of clause 9.1, from a NAL unit; reading past its end gives zeros."""

    def __init__(self, data: bytes) -> None:
        plain = data.replace(b"\0\0\3", b"\0\0")  # without emulation prevention
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


def length_size_of(codec: str, extradata: bytes | None) -> int:
    """Bytes of a unit's length in packets of a stream, from its extradata (avcC or hvcC); 0 for Annex B."""
    if not extradata or extradata[0] != 1:
        return 0
    at = 4 if codec == "h264" else 21
    return (extradata[at] & 3) + 1 if len(extradata) > at else 0


def without_sei(data: bytes, length_size: int) -> bytes:
    """An access unit of H.265 without the SEI messages before its slices, but for those that decoders need.

    None of them changes pixels, and decoders that shall refuse damage refuse what they find odd in them, too.
    """
    kept = [
        unit
        for unit in split_units(data, length_size)
        if unit and (unit[0] >> 1 & 63 != HEVC_SEI or _first_message(unit) in (RECOVERY_POINT, DISPLAY_ORIENTATION))
    ]
    return b"".join((len(unit).to_bytes(length_size, "big") if length_size else START) + unit for unit in kept)


def _first_message(unit: bytes) -> int:
    return unit[2] if len(unit) > 2 else 0


def add_orientation(data: bytes, codec: str, orientation: int) -> bytes:
    """An access unit (Annex B) of "h264" or "hevc" with a display orientation SEI message (D.2.27; D.2.20)."""
    mirrored, turns = ORIENTATION_SEI[orientation]
    bits = f"0{mirrored:b}0{turns << 14:016b}1" + ("0" if codec == "h264" else "00") + "1"
    payload = int(bits.ljust(24, "0"), 2).to_bytes(3, "big").replace(b"\0\0", b"\0\0\3")
    head = b"\x06" if codec == "h264" else b"\x4e\x01"
    message = START + head + bytes([DISPLAY_ORIENTATION, 3]) + payload + b"\x80"
    first_slice = range(1, 6) if codec == "h264" else HEVC_SLICES
    at = data.find(START)
    while at >= 0:
        kind = data[at + 3] & 31 if codec == "h264" else data[at + 3] >> 1 & 63
        if kind in first_slice:
            at -= at > 0 and not data[at - 1]
            return data[:at] + b"\0" + message + data[at:]
        at = data.find(START, at + 3)
    return data


@dataclass(frozen=True)
class Order:
    """What an access unit says: `missing` if one that it needs did not come.

    `clean_since` is n if this picture and those shown after it need none that came more than n units before; else None.
    `recovers` is True where H.265 begins to be refreshed bit by bit, `has_sei` where it has messages beside pictures.
    """

    missing: bool = False
    clean_since: int | None = None
    recovers: bool = False
    has_sei: bool = False


class Numbering(NamedTuple):
    """How an SPS of H.264 has pictures numbered: `frame_num` has `width` bits."""

    width: int
    gaps_allowed: bool
    separate_planes: bool
    frames_only: bool


class H264Order:
    """Follows `frame_num` (7.4.3), which rises by one with each reference picture, and recovery points (D.2.8)."""

    def __init__(self, extradata: bytes | None) -> None:
        self._length_size = length_size_of("h264", extradata)
        self._sps: dict[int, Numbering] = {}
        self._pps: dict[int, int] = {}
        self._last: int | None = None  # frame_num of the last reference picture
        self._ages: dict[int, int] = {}  # of recovery points, in units, by the frame_num at which all is right
        for unit in _units_of_avcc(extradata) if self._length_size else split_units(extradata or b"", 0):
            self._read_parameters(unit)

    def restart(self) -> None:
        """Forget what came before: the next unit is from another place of the stream."""
        self._last, self._ages = None, {}

    def see(self, data: bytes) -> Order:
        """Take the next access unit in order of decoding."""
        recovery = None
        for unit in split_units(data, self._length_size):
            kind = unit[0] & 31 if unit else 0
            if kind == SEI:
                recovery = _recovery_count(unit[1:]) if recovery is None else recovery
            elif kind in (SLICE, IDR):
                return self._see_slice(unit, kind == IDR, recovery)
            else:
                self._read_parameters(unit)
        return Order()

    def _see_slice(self, unit: bytes, idr: bool, recovery: int | None) -> Order:
        bits = Bits(unit[1:LONGEST_HEADER])
        first_block, _ = bits.ue(), bits.ue()
        rule = self._sps.get(self._pps.get(bits.ue(), -1))
        if rule is None:
            return Order(clean_since=0 if idr else None)
        bits.take(2 * rule.separate_planes)
        number, last, reference = bits.take(rule.width), self._last, bool(unit[0] & 0x60)
        field_picture = not rule.frames_only and bool(bits.take(1))
        if reference or idr:
            self._last = number
        if idr:
            self._ages = {}
            return Order(clean_since=0)
        size = 1 << rule.width
        step = 1 if last is None else (number - last) % size
        missing = step > 1 and not rule.gaps_allowed
        if missing and not reference:
            self._last = (number - 1) % size
        missing |= step == 0 and not field_picture and not first_block  # it came late
        self._ages = {target: age + 1 for target, age in self._ages.items()}
        if recovery is not None:
            self._ages.setdefault((number + recovery) % size, 0)
        return Order(missing, self._ages.pop(number, None) if reference else None)

    def _read_parameters(self, unit: bytes) -> None:
        kind, bits = unit[0] & 31 if unit else 0, Bits(unit[1:])
        if kind == PPS:
            number = bits.ue()
            self._pps[number] = bits.ue()
        elif kind == SPS:
            profile = bits.take(24) >> 16
            number, planes = bits.ue(), False
            if profile in HIGH_PROFILES:
                planes = _skip_chroma(bits)
            width = bits.ue() + 4
            _skip_picture_order(bits)
            bits.ue()  # max_num_ref_frames
            gaps_allowed, _, _ = bool(bits.take(1)), bits.ue(), bits.ue()  # then width and height
            self._sps[number] = Numbering(width, gaps_allowed, planes, bool(bits.take(1)))


class H265Order:
    """Follows recovery points (D.3.8), counting units; which pictures are missing says the decoder itself."""

    def __init__(self, extradata: bytes | None) -> None:
        self._length_size = length_size_of("hevc", extradata)
        self._ages: dict[int, int] = {}  # of recovery points, in units, by the age at which all is right

    def restart(self) -> None:
        """Forget what came before: the next unit is from another place of the stream."""
        self._ages = {}

    def see(self, data: bytes) -> Order:
        """Take the next access unit in order of decoding."""
        self._ages = {target: age + 1 for target, age in self._ages.items()}
        recovers = has_sei = False
        for unit in split_units(data, self._length_size):
            kind = unit[0] >> 1 & 63 if unit else -1
            if kind in HEVC_SLICES:
                break
            has_sei = has_sei or kind == HEVC_SEI
            if kind == HEVC_SEI and (count := _recovery_count(unit[2:], signed=True)) is not None:
                recovers = count > 0
                self._ages.setdefault(count + MOST_REORDERED if count else 0, 0)
        done = [target for target, age in self._ages.items() if age == target]
        return Order(False, self._ages.pop(done[0]) if done else None, recovers, has_sei)


def follow_order(codec: str, extradata: bytes | None) -> H264Order | H265Order | None:
    """What follows the order of a codec's access units; None for codecs that do not say."""
    if codec == "h264":
        return H264Order(extradata)
    return H265Order(extradata) if codec == "hevc" else None


def _units_of_avcc(data: bytes | None) -> Iterator[bytes]:
    """The parameter sets of an avcC box (ISO/IEC 14496-15, 5.3.3.1)."""
    data = data or b""
    at, left = 6, data[5] & 31 if len(data) > 5 else 0
    for _ in range(2):
        while left and at + 2 <= len(data):
            size = int.from_bytes(data[at : at + 2], "big")
            yield data[at + 2 : at + 2 + size]
            at, left = at + 2 + size, left - 1
        left, at = data[at] if at < len(data) else 0, at + 1


def _recovery_count(payload: bytes, signed: bool = False) -> int | None:
    """How many pictures after a recovery point all are right; None if the SEI messages hold no such point."""
    at = 0
    while at + 2 < len(payload):
        kind = size = 0
        while at < len(payload) - 1 and payload[at] == 255:
            kind, at = kind + 255, at + 1
        kind, at = kind + payload[at], at + 1
        while at < len(payload) - 1 and payload[at] == 255:
            size, at = size + 255, at + 1
        size, at = size + payload[at], at + 1
        if kind == RECOVERY_POINT:
            bits = Bits(payload[at : at + max(size, 1)])
            return max(bits.se() if signed else bits.ue(), 0)
        at += size
    return None


def _skip_chroma(bits: Bits) -> bool:
    """Pass over what high profiles have in their SPS (7.3.2.1.1); True if planes are coded separately."""
    full_colour = bits.ue() == 3
    separate = full_colour and bool(bits.take(1))
    bits.ue(), bits.ue(), bits.take(1)
    if bits.take(1):
        for number in range(12 if full_colour else 8):
            if bits.take(1):
                _skip_scaling_list(bits, 16 if number < 6 else 64)
    return separate


def _skip_scaling_list(bits: Bits, size: int) -> None:
    last = scale = 8
    for _ in range(size):
        scale = (last + bits.se()) % 256 if scale else 0
        last = scale or last


def _skip_picture_order(bits: Bits) -> None:
    kind = bits.ue()
    if kind == 0:
        bits.ue()
    elif kind == 1:
        bits.take(1), bits.se(), bits.se()
        for _ in range(min(bits.ue(), 255)):
            bits.se()
