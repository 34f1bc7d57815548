"""Whether a packet of video is whole, where its codec says so and its decoder does not ask, but fills up the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
