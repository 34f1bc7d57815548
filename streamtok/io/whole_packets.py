"""Whether a packet of video is whole, where its codec says so and its decoder does not ask, but fills up the rest.

What neither packets nor decoders show is named here, too, so that nobody takes it for good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import av

from streamtok.io.image_messages import is_whole_jpeg

TAIL = 64  # bytes in which an end mark is looked for: some cameras add others
IMAGE, EXTENSION, PALETTE = 0x2C, 0x21, 0x80  # of GIF


def is_whole(codec: str, packet: Any) -> bool:
    """Whether a packet of PyAV holds all that its codec says it does; True where that says nothing."""
    rule = RULES.get(codec)
    return rule is None or rule(bytes(packet))


def _is_whole_jpeg2000(data: bytes) -> bool:
    return b"\xff\xd9" in data[-TAIL:]


def _is_whole_rle(data: bytes) -> bool:
    """QuickTime's, which begins with its size."""
    return len(data) >= int.from_bytes(data[:4], "big") & 0x3FFFFFFF


def _is_whole_gif(data: bytes) -> bool:
    """Blocks of which one is an image; each consists of parts that say their size, up to one of 0 bytes."""
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
    """Bytes of the palette that follows."""
    return 6 << (flags & 7) if flags & PALETTE else 0


RULES: dict[str, Callable[[bytes], bool]] = {
    "mjpeg": is_whole_jpeg,
    "amv": is_whole_jpeg,
    "jpeg2000": _is_whole_jpeg2000,
    "qtrle": _is_whole_rle,
    "gif": _is_whole_gif,
}
"""Of decoders' names: whether a packet is whole."""

FILLS_UP = {"vp8", "vp9", "huffyuv", "ffvhuff", "cinepak", "msvideo1", "asv2", "magicyuv", "snow", "speedhq"}
FILLS_UP |= {"dpx", "exr", "sgi", "h261"}
"""Decoders that take a packet that is cut off for a whole one, where nothing in it says how long it is."""
COUNTS = {"h264", "hevc", "mpeg1video", "mpeg2video"}
"""Decoders of streams in which a picture that is missing shows."""
CHECKS = {"ffv1", "png", "apng"}
"""Decoders that compare checksums, which streams of others have at most by choice."""


def say_unseen(codec: str) -> Iterator[str]:
    """What damage to a stream of a decoder cannot be seen, in words."""
    if codec in FILLS_UP:
        yield f"a packet of {codec} that is cut off is not noticed: its decoder fills up the rest"
    if codec not in COUNTS and not av.Codec(codec, "r").intra_only:
        yield f"nothing in {codec} counts pictures: behind one that is missing from the file, others may be wrong"
    if codec not in CHECKS:
        yield "a changed byte is noticed only where the decoder refuses it, or by checksums (H.265 may have them)"
