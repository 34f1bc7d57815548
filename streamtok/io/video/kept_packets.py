"""Keep each picture's compressed packet, so that it can be recorded without encoding it again."""

from typing import Any

from streamtok.io.codecs.nal_units import add_orientation, to_annex_b
from streamtok.io.video.clean_decoder import new_extradata
from streamtok.preprocessing.orientation import UPRIGHT

ANNEX_B = ("h264", "hevc")
MOST_PACKETS = 64


class KeptPackets:
    """Holds the packets of one PyAV stream until their pictures come out; H.264 and H.265 as Annex B access units."""

    def __init__(self, context: Any) -> None:
        self._codec, self._extradata = context.name, context.extradata
        self._packets: dict[int, bytes] = {}

    def keep(self, packet: Any) -> None:
        """Keep the bytes of a PyAV packet."""
        self._extradata = new_extradata(packet) or self._extradata
        if not packet.size or packet.pts is None:
            return
        data = bytes(packet)
        self._packets[packet.pts] = to_annex_b(data, self._codec, self._extradata) if self._codec in ANNEX_B else data
        while len(self._packets) > MOST_PACKETS:
            del self._packets[next(iter(self._packets))]

    def take(self, frame: Any) -> bytes | None:
        """The packet of a frame that came out, with its orientation; None if it is gone, or cannot hold that."""
        packet, orientation = self._packets.pop(frame.pts, None), frame.opaque[0]
        if packet is None or orientation == UPRIGHT:
            return packet
        return add_orientation(packet, self._codec, orientation) if self._codec in ANNEX_B else None
