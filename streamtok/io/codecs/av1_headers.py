"""Read from AV1 headers which picture a temporal unit shows, by order hints (AV1 specification, 5.5, 5.9 and 7.20)."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from streamtok.io.codecs.nal_units import Bits
from streamtok.io.codecs.shown_order import Order, Shown

SEQUENCE, DELIMITER, FRAME_HEADER, FRAME = 1, 2, 3, 6  # types of OBUs
KEY, INTRA_ONLY, SWITCH = 0, 2, 3  # types of frames
HEAD = 64  # bytes parsed of an OBU
CONFIGURATION = 4  # bytes of av1C before its OBUs
PER_FRAME = 2  # instead of a value: each frame header has it
SLOTS = 8


class Sequence(NamedTuple):
    """The fields of a sequence header that frame headers depend on; `hint_bits` is 0 without readable order hints."""

    still: bool = False
    hint_bits: int = 0
    frame_ids: int = 0  # bits of one
    screen_content: int = 0
    integer_motion: int = 0


class Av1Numbers:
    """Reads the order hint of the picture that each temporal unit shows."""

    def __init__(self, extradata: bytes | None) -> None:
        self._sequence = Sequence()
        self._slots = [(0, SWITCH)] * SLOTS  # (order hint, type) of the reference frames
        for kind, obu in _split_obus((extradata or b"")[CONFIGURATION:]):
            if kind == SEQUENCE:
                self._sequence = read_sequence(obu)

    def read(self, data: bytes) -> Shown | Order:
        """The number of the picture that a temporal unit shows; without order hints, whether it is a key frame."""
        shown, key = None, False
        for kind, obu in _split_obus(data):
            if kind == SEQUENCE:
                self._sequence = read_sequence(obu)
            elif kind in (FRAME_HEADER, FRAME) and obu and not self._sequence.still:
                key = key or obu[0] >> 4 == 1  # new, a key frame, shown
                hint = self._read_frame(Bits(obu[:HEAD], escaped=False))
                shown = shown if hint is None else hint
        if shown is None or not self._sequence.hint_bits:
            return Order(clean_since=0 if key or self._sequence.still else None)
        return Shown(shown, 1 << self._sequence.hint_bits, begins=key, clean=key)

    def _read_frame(self, bits: Bits) -> int | None:
        """The hint of the picture that a frame header shows; None if it shows none."""
        rule = self._sequence
        if bits.take(1):  # show_existing_frame; a key frame then refreshes all slots (7.21)
            slot = self._slots[bits.take(3)]
            self._slots = [slot] * SLOTS if slot[1] == KEY else self._slots
            return slot[0]
        kind, shows = bits.take(2), bits.take(1)
        bits.take(not shows)
        resilient = kind == SWITCH or (kind == KEY and shows) or bits.take(1)
        bits.take(1)  # disable_cdf_update
        screen = bits.take(1) if rule.screen_content == PER_FRAME else rule.screen_content
        bits.take(bool(screen) and rule.integer_motion == PER_FRAME)
        bits.take(rule.frame_ids + (kind != SWITCH))  # and frame_size_override_flag
        hint = bits.take(rule.hint_bits)
        bits.take(0 if resilient or kind in (KEY, INTRA_ONLY) else 3)
        refreshed = (1 << SLOTS) - 1 if kind == SWITCH or (kind == KEY and shows) else bits.take(SLOTS)
        self._slots = [(hint, kind) if refreshed >> n & 1 else old for n, old in enumerate(self._slots)]
        return hint if shows else None


def read_sequence(obu: bytes) -> Sequence:
    """Parse a sequence header; with a decoder model, or for a single still picture, frame headers are not parsed."""
    bits = Bits(obu, escaped=False)
    bits.take(4)
    if bits.take(1):
        return Sequence(still=True)
    if bits.take(1):  # timing_info
        bits.take(64)
        if bits.take(1):
            bits.ue()
        if bits.take(1):
            return Sequence()
    delays = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        bits.take(bits.take(5) > 7)
        bits.take(4 * (delays and bits.take(1)))
    width, height = bits.take(4) + 1, bits.take(4) + 1
    bits.take(width + height)
    frame_ids = bits.take(4) + 2 + bits.take(3) + 1 if bits.take(1) else 0
    bits.take(7)
    counts = bits.take(1)
    bits.take(2 * counts)
    screen = PER_FRAME if bits.take(1) else bits.take(1)
    motion = PER_FRAME if not screen or bits.take(1) else bits.take(1)
    return Sequence(False, bits.take(3) + 1 if counts else 0, frame_ids, screen, motion)


def split_temporal_units(data: bytes) -> list[bytes]:
    """Split data before the delimiters (7.5) between its frames."""
    begins, begun = [0], False
    for kind, begin, _, _ in _find_obus(data):
        if kind == DELIMITER and begun:
            begins.append(begin)
        begun = kind in (FRAME_HEADER, FRAME) or (begun and kind != DELIMITER)
    if not begun:  # what follows the last frame belongs to it
        begins = begins[:-1] or [0]
    return [data[begin:end] for begin, end in itertools.pairwise([*begins, len(data)])]


def _split_obus(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The type and payload of each OBU."""
    return ((kind, data[at:end]) for kind, _, at, end in _find_obus(data))


def _find_obus(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """The type of each OBU (5.3), and where it, its payload and what follows begin."""
    at = 0
    while at < len(data):
        begin, kind, has_size = at, data[at] >> 3 & 15, data[at] & 2
        at += 2 if data[at] & 4 else 1
        size, shift = 0 if has_size else len(data) - at, 0
        while has_size and at < len(data):
            size |= (data[at] & 127) << shift
            shift, at, has_size = shift + 7, at + 1, data[at] & 128
        yield kind, begin, at, at + size
        at += size
