"""The packets of a video file, kept until the pictures come out that they were decoded to."""

from __future__ import annotations

from typing import Any

import av
from av.bitstream import BitStreamFilterContext

ANNEX_B = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}
MOST_PACKETS = 64


class KeptPackets:
    """Packets of one stream of PyAV by presentation time, H.264 and H.265 as Annex B access units."""

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
