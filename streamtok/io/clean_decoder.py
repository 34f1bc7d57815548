"""Decoding of compressed video that leaves out what damage may have touched.

Decoders conceal damage: they go on with pictures that look right and are not. Here an error, or a missing packet, costs
every picture that may depend on it, up to the next key frame, and each of them is named with its reason.

Decoders give pictures in the order of presentation, and packets come in the order of decoding. A picture depends on
packets before its own alone, so the order of packets decides what damage reaches, however late a picture comes out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import av
import numpy as np
from av.bitstream import BitStreamFilterContext

DEPENDS = "depends on a damaged picture"
MOST_WAITING = 64
"""Packets remembered for pictures that have not come out of the decoder yet."""
MOST_LOSSES = 64
MOST_PACKETS = 64  # kept
ANNEX_B = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}


class Checked(NamedTuple):
    """A frame of PyAV, None where a packet gave none; `damage` says why it must not be used, empty if it may be.

    `disturbed`: pictures before this one may be missing without a word, as decoders drop some after damage.
    """

    frame: Any
    damage: str = ""
    disturbed: bool = False


class Loss(NamedTuple):
    """A packet that is lost or damaged: its place in the order of packets, its presentation time, what it costs."""

    order: int
    pts: int | None
    reason: str


class CleanDecoder:
    """Decodes with a codec context of PyAV that is not open yet, and judges what comes out."""

    def __init__(self, context: Any) -> None:
        context.thread_count = 1
        context.options = {"err_detect": "explode"}
        self._context = context
        self.restart()

    def restart(self) -> None:
        """Begin anew, for packets from another place of the stream; the context has been flushed."""
        self._fed = 0
        self._orders: dict[int, int] = {}  # by presentation time
        self._losses = [Loss(0, None, "before the first key frame")]
        self._key: tuple[int | None, int] = None, 0  # presentation time and order of the last one that came out

    @property
    def damage(self) -> str:
        """Why pictures are left out now, up to the next key frame; empty where none are."""
        return self._losses[0].reason if self._losses else ""

    def lose_packets(self, reason: str = DEPENDS) -> None:
        """Say that packets are missing here: pictures up to the next key frame are left out."""
        self._fed += 1
        self._lose(Loss(self._fed, None, reason))

    def refuse(self, reason: str, pts: int | None = None) -> Checked:
        """Say that a packet is not given to the decoder; returns what became of it."""
        self._feed(pts)
        return self._refused(reason, pts)

    def decode(self, packet: Any) -> Iterator[Checked]:
        """What comes out for a packet (None at the end of the stream), in presentation order."""
        pts = None if packet is None else packet.pts
        self._feed(pts)
        try:
            frames = self._context.decode(packet)
        except av.FFmpegError as error:
            yield self._refused(f"the decoder refuses it: {error.strerror}", pts)
            return
        for frame in frames:
            disturbed = bool(self._losses)
            damage = self._judge(frame)
            yield Checked(frame, damage, disturbed)

    def _feed(self, pts: int | None) -> None:
        self._fed += 1
        if pts is None:
            return
        self._orders[pts] = self._fed
        if len(self._orders) > MOST_WAITING:
            del self._orders[next(iter(self._orders))]

    def _refused(self, reason: str, pts: int | None) -> Checked:
        refused = Checked(None, self.damage or reason, True)
        self._lose(Loss(self._fed, pts, DEPENDS))
        return refused

    def _lose(self, loss: Loss) -> None:
        if not _reaches_behind(loss, *self._key):
            return
        self._losses.append(loss)
        if len(self._losses) > MOST_LOSSES:  # the first says what is damaged, the last when that ends
            del self._losses[1]

    def _judge(self, frame: Any) -> str:
        """Why a frame that came out must not be used; empty if it may be."""
        order = self._fed if frame.pts is None else self._orders.pop(frame.pts, self._fed)
        if frame.is_corrupt:
            self._lose(Loss(order, frame.pts, DEPENDS))
            return "the decoder marks it as damaged"
        if frame.key_frame:
            self._key = frame.pts, order
            self._losses = [loss for loss in self._losses if _reaches_behind(loss, *self._key)]
        return next((loss.reason for loss in self._losses if loss.order <= order), "")


def _reaches_behind(loss: Loss, pts: int | None, order: int) -> bool:
    """Whether a loss may touch a key frame, given by `pts` and `order`, or pictures shown after it."""
    shown_before = loss.pts is not None and pts is not None and loss.pts < pts
    return loss.order >= order and not shown_before


def to_image(frame: Any) -> np.ndarray:
    """A decoded video frame as uint8 RGB (H, W, 3)."""
    return np.ascontiguousarray(frame.to_ndarray(format="rgb24"))


class KeptPackets:
    """Packets of one stream of PyAV until their pictures come out, H.264 and H.265 as Annex B access units."""

    def __init__(self, stream: Any) -> None:
        context = stream.codec_context
        name = ANNEX_B.get(context.name) if context.extradata else None
        self._filter = BitStreamFilterContext(name, in_stream=stream) if name else None
        self._packets: dict[int, bytes] = {}

    def keep(self, packet: Any) -> None:
        """Keep what a packet of PyAV holds; raises FFmpegError where no access unit can be made of it."""
        if not packet.size or packet.pts is None:
            return
        data = bytes(packet)
        if self._filter is not None:  # it empties what it is given, so it gets a copy
            data = b"".join(bytes(part) for part in self._filter.filter(av.Packet(data)))
        self._packets[packet.pts] = data
        while len(self._packets) > MOST_PACKETS:
            del self._packets[next(iter(self._packets))]

    def take(self, pts: int | None) -> bytes | None:
        """The packet that is shown at `pts`, given once."""
        return None if pts is None else self._packets.pop(pts, None)
