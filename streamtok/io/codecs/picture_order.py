"""Detect missing pictures, and where damage ends, from the headers of H.264 and H.265.

Decoders do not report either: FFmpeg's H.264 decoder conceals a picture that never came, and none says when a gradual
refresh (without key frames) is complete. Clauses are those of ITU-T H.264 and H.265. Codecs that number pictures in
order of presentation are in `streamtok.io.codecs.shown_order`.
"""

from dataclasses import replace
from typing import NamedTuple

from streamtok.io.codecs.av1_headers import Av1Numbers
from streamtok.io.codecs.mpeg_headers import read_mpeg2
from streamtok.io.codecs.nal_units import (
    DISPLAY_ORIENTATION,
    HEVC_SEI,
    HEVC_SLICES,
    RECOVERY_POINT,
    Bits,
    parameter_sets,
    read_length_size,
    read_messages,
    split_units,
)
from streamtok.io.codecs.shown_order import Order, ShownOrder

IDR, SLICE, SEI, SPS, PPS = 5, 1, 6, 7, 8  # NAL unit types of H.264
HEVC_KEYS = range(16, 22)
HEVC_TRAILING, HEVC_LEADING = range(6), range(6, 10)  # shown after their key frame, and before it
HEVC_RADL = (6, 7)  # leading pictures that refer to nothing before their key frame
HIGH_PROFILES = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)
MOST_REORDERED = 4  # pictures of reordering in streams without key frames
LONGEST_HEADER = 64  # bytes parsed of a slice


class Numbering(NamedTuple):
    """The fields of an H.264 SPS that picture numbering depends on: `frame_num` has `width` bits."""

    width: int
    gaps_allowed: bool
    separate_planes: bool
    frames_only: bool


class H264Order:
    """Follows `frame_num` (7.4.3), which rises by one with each reference picture, and recovery points (D.2.8)."""

    def __init__(self, extradata: bytes | None) -> None:
        self._length_size = read_length_size("h264", extradata)
        self._sps: dict[int, Numbering] = {}
        self._pps: dict[int, int] = {}
        self.restart()
        for unit in parameter_sets("h264", extradata):
            self._read_parameters(unit)

    def restart(self) -> None:
        """Forget the past: the next unit is from another place of the stream."""
        self._last: int | None = None  # frame_num of the last reference picture
        self._ages: dict[int, int] = {}  # of recovery points, in access units, by the frame_num of complete recovery
        self._crowded = False  # FFmpeg has filled a jump up with pictures that it may take for those after a key frame

    def see(self, data: bytes) -> Order:
        """Take the next access unit in order of decoding."""
        said: dict[int, Bits] = {}
        kind = -1
        for unit in split_units(data, self._length_size):
            kind = unit[0] & 31 if unit else kind
            if kind == SEI:
                said |= read_messages(unit[1:])
            elif kind in (SLICE, IDR):
                recovery, turned = said.get(RECOVERY_POINT), said.get(DISPLAY_ORIENTATION)
                order = self._see_slice(unit, kind == IDR, recovery.ue() if recovery else None)
                return replace(order, stays_turned=_stays(turned) if turned or kind == IDR else None)
            else:
                self._read_parameters(unit)
        return Order(empty=kind < 0)

    def _see_slice(self, unit: bytes, idr: bool, recovery: int | None) -> Order:
        bits = Bits(unit[1:LONGEST_HEADER])
        first_block, _ = bits.ue(), bits.ue()
        rule = self._sps.get(self._pps.get(bits.ue(), -1))
        if rule is None:
            return Order(clean_since=0 if idr else None, recovers=idr)
        bits.take(2 * rule.separate_planes)
        number, last, reference = bits.take(rule.width), self._last, bool(unit[0] & 0x60)
        field_picture = not rule.frames_only and bool(bits.take(1))
        if reference or idr:
            self._last = number
        if idr:
            self._ages, self._crowded = {}, False
            return Order(clean_since=0, recovers=True)
        size = 1 << rule.width
        step = 1 if last is None else (number - last) % size
        missing = step > 1 and not rule.gaps_allowed
        if missing and not reference:
            self._last = (number - 1) % size
        missing |= step == 0 and not field_picture and not first_block  # out of order
        self._crowded |= missing and step > size // 2  # as where it came late
        self._ages = {target: age + 1 for target, age in self._ages.items()}
        if recovery is not None:
            self._ages.setdefault((number + recovery) % size, 0)
        clean_since = self._ages.pop(number, None) if reference else None
        return Order(0 if missing else None, clean_since, self._crowded and clean_since == 0)

    def _read_parameters(self, unit: bytes) -> None:
        kind = unit[0] & 31 if unit else 0
        if kind == PPS:
            bits = Bits(unit[1:])
            number = bits.ue()
            self._pps[number] = bits.ue()
        elif kind == SPS:
            number, rule = read_sps(unit)
            self._sps[number] = rule


def read_sps(unit: bytes) -> tuple[int, Numbering]:
    """The number of an H.264 sequence parameter set, and what it says of numbering (7.3.2.1.1)."""
    bits = Bits(unit[1:])
    profile = bits.take(24) >> 16
    number, planes = bits.ue(), False
    if profile in HIGH_PROFILES:
        planes = _skip_chroma(bits)
    width = bits.ue() + 4
    _skip_picture_order(bits)
    bits.ue()  # max_num_ref_frames
    gaps_allowed, _, _ = bool(bits.take(1)), bits.ue(), bits.ue()  # width and height are skipped
    return number, Numbering(width, gaps_allowed, planes, bool(bits.take(1)))


class H265Order:
    """Follows key frames and recovery points (D.3.8) by counting access units; the decoder reports missing pictures.

    It does not report a missing key frame, from which pictures are numbered: those that refer to it find another. But
    leading pictures precede trailing ones (7.4.2.2), so leading ones after a trailing one have lost their key frame.
    """

    def __init__(self, extradata: bytes | None) -> None:
        self._length_size = read_length_size("hevc", extradata)
        self.restart()

    def restart(self) -> None:
        """Forget the past: the next unit is from another place of the stream."""
        self._ages: dict[int, int] = {}  # of recovery points, in access units, by the age of complete recovery
        self._key_age: int | None = None  # of the last key frame
        self._trailed = False  # whether a trailing picture has followed it

    def see(self, data: bytes) -> Order:
        """Take the next access unit in order of decoding."""
        self._ages = {target: age + 1 for target, age in self._ages.items()}
        self._key_age = None if self._key_age is None else self._key_age + 1
        recovers, has_sei, kind = False, False, -1
        for unit in split_units(data, self._length_size):
            kind = unit[0] >> 1 & 63 if unit else kind
            if kind in HEVC_SLICES:
                recovers = recovers or kind in HEVC_KEYS
                break
            has_sei = has_sei or kind == HEVC_SEI
            if kind == HEVC_SEI and (recovery := dict(read_messages(unit[2:])).get(RECOVERY_POINT)):
                count = max(recovery.se(), 0)
                recovers = count > 0
                self._ages.setdefault(count + MOST_REORDERED if count else 0, 0)
        if kind in HEVC_KEYS:
            self._key_age, self._trailed = 0, False
        self._trailed |= kind in HEVC_TRAILING
        orphaned = kind in HEVC_LEADING and self._trailed
        done = next((target for target, age in self._ages.items() if age == target), None)
        clean_since = None if done is None else self._ages.pop(done)
        if kind in HEVC_RADL:
            clean_since = None if orphaned else self._key_age
        return Order(0 if orphaned else None, clean_since, recovers, has_sei, kind < 0)


def follow_order(
    codec: str, extradata: bytes | None, reordered: bool = True
) -> H264Order | H265Order | ShownOrder | None:
    """The tracker of picture order for a decoder's access units; None for codecs without numbers."""
    if codec == "h264":
        return H264Order(extradata)
    if codec == "hevc":
        return H265Order(extradata)
    if codec in ("mpeg1video", "mpeg2video"):
        return ShownOrder(read_mpeg2, reordered)
    if codec in ("libdav1d", "av1"):
        return ShownOrder(Av1Numbers(extradata).read, reordered=False)
    return None


def _stays(turned: Bits | None) -> bool:
    """Whether a display orientation of H.264 (D.2.27) holds for later pictures: it is not cancelled, and repeats."""
    return turned is not None and turned.take(19) >> 18 == 0 and turned.ue() > 0  # the first bit cancels


def _skip_chroma(bits: Bits) -> bool:
    """Skip the SPS fields of high profiles (7.3.2.1.1); True if colour planes are coded separately."""
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
