"""Split messages that hold several pictures of H.264, H.265 or AV1 into access units."""

from streamtok.io.codecs.av1_headers import split_temporal_units
from streamtok.io.codecs.nal_units import HEADER_UNITS, PARAMETER_UNIT, SLICES, START, split_units, unit_type
from streamtok.io.codecs.picture_order import read_sps

BEFORE_SLICES = {"h264": (*HEADER_UNITS["h264"], *range(14, 19)), "hevc": HEADER_UNITS["hevc"]}
"""Types of units that belong to the slice after them, also in scalable and multiview H.264 (7.4.1.2.3)."""
FIRST = {"h264": (1, 2, 5), "hevc": SLICES["hevc"]}
"""Types of slices that say in their first bit behind the unit's header whether they are the first of a picture."""
HEADER_BYTES = {"h264": 1, "hevc": 2}


class AccessUnits:
    """Splits the messages of one camera, in order. In an interlaced H.264 stream nothing is split: two fields, each
    with a first slice, are one picture there. Nor is anything in a `shuffled` stream, whose pictures (with B-frames)
    come in another order than they are shown: a picture's time is not between its neighbours' there.
    """

    def __init__(self, shuffled: bool = False) -> None:
        self._shuffled, self._frames_only = shuffled, False

    def split(self, codec: str, data: bytes) -> list[bytes]:
        """The access units of a message (Annex B); `codec` is the name of a decoder. All of it if it holds only one."""
        if codec == "libdav1d":
            return split_temporal_units(data)
        if codec not in SLICES or self._shuffled:
            return [data]
        pictures: list[list[bytes]] = [[]]
        headers: list[bytes] = []
        begun = False
        for unit in filter(None, split_units(data, 0)):
            kind = unit_type(codec, unit)
            if kind in BEFORE_SLICES[codec]:
                headers.append(unit)
                if codec == "h264" and kind == PARAMETER_UNIT[codec]:
                    self._frames_only = read_sps(unit)[1].frames_only
                continue
            if begun and _begins_picture(codec, kind, unit):
                pictures.append([])
            begun = begun or kind in SLICES[codec]
            pictures[-1] += [*headers, unit]
            headers = []
        if len(pictures) == 1 or not (self._frames_only or codec == "hevc"):
            return [data]
        pictures[-1] += headers
        return [b"".join(b"\0" + START + unit for unit in units) for units in pictures]


def _begins_picture(codec: str, kind: int, unit: bytes) -> bool:
    """Whether a unit is the first slice of a picture, in H.265 of the base layer."""
    size = HEADER_BYTES[codec]
    is_base = codec == "h264" or not (unit[0] & 1 or unit[1:2] > b"\7")
    return kind in FIRST[codec] and is_base and unit[size : size + 1] >= b"\x80"
