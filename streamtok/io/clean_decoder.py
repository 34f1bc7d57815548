"""Decoding of compressed video that leaves out what damage may have touched.

Decoders conceal damage: they go on with pictures that look right and are not. Here an error, or a missing packet, costs
every picture up to the next key frame, and each of them is named with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

DEPENDS = "depends on a damaged picture"


class Checked(NamedTuple):
    """A frame of PyAV, None where a packet gave none; `damage` says why it must not be used, empty if it may be."""

    frame: Any
    damage: str = ""


class CleanDecoder:
    """Decodes with a codec context of PyAV that is not open yet, and judges what comes out.

    `damage` is why pictures are left out now, up to the next key frame; empty where none are.
    """

    def __init__(self, context: Any) -> None:
        context.thread_count = 1
        context.options = {"err_detect": "explode"}
        self._context = context
        self.damage = "before the first key frame"

    def missing(self, reason: str = DEPENDS) -> None:
        """Say that packets are missing here: pictures up to the next key frame are left out."""
        self.damage = self.damage or reason

    def refuse(self, reason: str) -> Checked:
        """A packet that is not given to the decoder, or that it does not take."""
        refused = Checked(None, self.damage or reason)
        self.missing()
        return refused

    def decode(self, packet: Any) -> Iterator[Checked]:
        """What comes out for a packet (None at the end of the stream), in presentation order."""
        import av

        try:
            frames = self._context.decode(packet)
        except av.FFmpegError as error:
            yield self.refuse(f"the decoder refuses it: {error.strerror}")
            return
        for frame in frames:
            yield Checked(frame, self._damage_of(frame))

    def _damage_of(self, frame: Any) -> str:
        if frame.is_corrupt:
            self.damage = DEPENDS
            return "the decoder marks it as damaged"
        if frame.key_frame:
            self.damage = ""
        return self.damage


def to_image(frame: Any) -> np.ndarray:
    """A decoded video frame as uint8 RGB (H, W, 3)."""
    return np.ascontiguousarray(frame.to_ndarray(format="rgb24"))
