"""Check that a packet of video is complete, for codecs whose decoders silently fill in what is cut off.

`say_unseen` lists the damage that neither packets nor decoders show, so that nobody relies on its detection.
"""

import re
import zlib
from collections.abc import Callable, Iterator

import av

from streamtok.io.codecs.mpeg_headers import PairedFields
from streamtok.io.codecs.nal_units import SLICES, read_length_size, split_units, unit_type
from streamtok.io.images.stills import is_whole_jpeg

TAIL = 64  # last bytes, in which the end mark is sought: some cameras append others
IMAGE, EXTENSION, PALETTE = 0x2C, 0x21, 0x80  # of GIF
FORBIDDEN = re.compile(rb"\0\0[\0-\2]")  # in a slice
LONG_FILL = 4  # zeros: fewer may precede a start code
MOST_FILL = 64  # zeros at the end of a slice of known length: more are no padding
MARK, JPEG_BEGINS = re.compile(rb"\xff[\xc0-\xfe]"), b"\xff\xd8"
SECOND_FIELD = re.compile(rb"\xff\xd9\0*(?=\xff\xd8\xff)")
SIZE = re.compile(rb"\xff[\xc0-\xc2]..\x08(....)", re.DOTALL)  # of a picture, in its frame header
PLAIN_FOOTER, SUMMED_FOOTER = 3, 8  # bytes, of a slice of FFV1
MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))  # FFV1's checksum takes the high bit first
SUM_STARTS = 0xFFFFFFFF, 0xA1CEFD61  # of FFV1's checksums in versions 3 and 4, inverted as zlib takes them


def whole_rule(codec: str, extradata: bytes | None) -> Callable[[bytes], bool] | None:
    """The check of whether a packet is complete, for a decoder's name and a stream; None if there is none."""
    if codec in SLICES:
        return WholeSlices(codec, extradata)
    if codec == "mpeg2video":
        return PairedFields()
    if codec == "ffv1" and not extradata:  # a version whose slices do not hold their size
        return None
    return RULES.get(codec)


class WholeSlices:
    """Checks access units of H.264 and H.265: no slice may hold bytes that emulation prevention rules out.

    Zeros at the end of a slice mean that it was overwritten, unless most slices of the stream are padded so.
    """

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        self._codec, self._length_size = codec, read_length_size(codec, extradata)
        self._fill = 1 if self._length_size else LONG_FILL
        self._bare = self._filled = 0
        self._even = True  # all slices so far have an even length: some encoders pad to that

    def __call__(self, data: bytes) -> bool:
        return all(self._is_whole(unit) for unit in split_units(data, self._length_size) if unit)

    def _is_whole(self, unit: bytes) -> bool:
        if unit_type(self._codec, unit) not in SLICES[self._codec]:
            return True
        bare = unit.rstrip(b"\0")
        fill = len(unit) - len(bare)
        self._even = self._even and not len(unit) % 2
        filled = fill >= (LONG_FILL if self._even else self._fill)
        believed = self._filled < self._bare or (self._length_size and fill > MOST_FILL)
        self._filled, self._bare = self._filled + filled, self._bare + (not filled)
        return not (filled and believed) and FORBIDDEN.search(bare) is None


def _is_whole_mjpeg(data: bytes) -> bool:
    """Whether a JPEG of a stream is complete; other bytes may precede it, but its first marker must be its start.

    Two JPEGs of one size are the fields of a picture, and both must be complete; others, as a preview, do not count.
    """
    first = MARK.search(data)
    if first is None or first[0] != JPEG_BEGINS or not is_whole_jpeg(data[first.start() :]):
        return False
    second = SECOND_FIELD.search(data)
    if second is None:
        return True
    sizes = {*SIZE.findall(data[: second.start()])[-1:], *SIZE.findall(data[second.end() :])[:1]}  # not a thumbnail's
    return len(sizes) > 1 or is_whole_jpeg(data[second.end() :])


def _is_whole_ffv1(data: bytes) -> bool:
    """Whether the sizes in slice footers add up, and each slice's checksum, if the stream has them, is 0."""
    summed = _split_slices(data, SUMMED_FOOTER)
    if summed is None:
        return _split_slices(data, PLAIN_FOOTER) is not None
    parts = [part.translate(MIRRORED) for part in summed]
    return any(all(zlib.crc32(part, start) == start for part in parts) for start in SUM_STARTS)


def _split_slices(data: bytes, footer: int) -> list[bytes] | None:
    """The slices of FFV1 (RFC 9043, 4.9), each with a footer that begins with its size; None if they do not add up."""
    slices, end = [], len(data)
    while end >= footer:
        size = int.from_bytes(data[end - footer : end - footer + 3], "big") + footer
        if size > end:
            return None
        slices.append(data[end - size : end])
        end -= size
    return None if end else slices


def _is_whole_gif(data: bytes) -> bool:
    """Whether all blocks of a GIF are complete, and one is an image; a block ends with a sub-block of 0 bytes."""
    at = 13 + _palette_size(data[10]) if data.startswith(b"GIF8") else 0
    images = 0
    try:
        while at < len(data) and data[at] in (IMAGE, EXTENSION):
            images += data[at] == IMAGE
            at += 11 + _palette_size(data[at + 9]) if data[at] == IMAGE else 2
            while size := data[at]:
                at += 1 + size
            at += 1
    except IndexError:
        return False
    return images > 0


def _palette_size(flags: int) -> int:
    """The size in bytes of the palette that follows the `flags`."""
    return 6 << (flags & 7) if flags & PALETTE else 0


RULES: dict[str, Callable[[bytes], bool]] = {  # decoder name -> check of whether a packet is complete
    "mjpeg": _is_whole_mjpeg,
    "amv": _is_whole_mjpeg,
    "ffv1": _is_whole_ffv1,
    "jpeg2000": lambda data: b"\xff\xd9" in data[-TAIL:],
    "qtrle": lambda data: len(data) >= int.from_bytes(data[:4], "big") & 0x3FFFFFFF,  # it begins with its size
    "gif": _is_whole_gif,
}

FILLS_UP = {"vp8", "vp9", "huffyuv", "ffvhuff", "cinepak", "msvideo1", "asv2", "magicyuv", "snow", "speedhq"}
FILLS_UP |= {"dpx", "exr", "sgi", "h261"}
"""Decoders that accept a truncated packet, of codecs whose packets do not hold their length."""
COUNTS = {"h264", "hevc", "mpeg1video", "mpeg2video", "libdav1d", "av1"}
"""Decoders of streams in which missing pictures are detected."""
CHECKS = {"ffv1", "png", "apng"}  # decoders that verify checksums; in other codecs they are optional at most


def say_unseen(codec: str) -> Iterator[str]:
    """The kinds of damage that are not detected in streams of a decoder, in words."""
    if codec in FILLS_UP:
        yield f"a packet of {codec} that is cut off is not noticed: its decoder fills up the rest"
    if codec in ("libdav1d", "av1"):
        yield "without order hints nothing in AV1 counts pictures: behind one that is missing, others may be wrong"
    if codec not in COUNTS and not av.Codec(codec, "r").intra_only:
        yield f"nothing in {codec} counts pictures: behind one that is missing from the file, others may be wrong"
    if codec not in CHECKS:
        yield "a changed byte is noticed only where the decoder refuses it, or by checksums (H.265 may have them)"
