"""Split messages that hold several pictures of H.264 or H.265 into access units."""

from streamtok.io.codecs.nal_units import HEADER_UNITS, PARAMETER_UNIT, SLICES, START, split_units, unit_type
from streamtok.io.codecs.picture_order import read_sps

FIRST = {"h264": (1, 2, 5), "hevc": SLICES["hevc"]}
"""Types of slices that say in their first bit behind the unit's header whether they are the first of a picture."""
HEADER_BYTES = {"h264": 1, "hevc": 2}


class AccessUnits:
    """Splits the messages of one camera, in order. In an interlaced H.264 stream nothing is split: two fields, each
    with a first slice, are one picture there.
    """

    def __init__(self) -> None:
        self._frames_only = False

    def split(self, codec: str, data: bytes) -> list[bytes]:
        """The access units (Annex B) of a message; `codec` is the name of a decoder. All of it if it holds only one."""
        if codec not in SLICES:
            return [data]
        pictures: list[list[bytes]] = [[]]
        headers: list[bytes] = []  # units that belong to the slice after them
        begun = False
        for unit in filter(None, split_units(data, 0)):
            kind = unit_type(codec, unit)
            if kind in HEADER_UNITS[codec]:
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
        return [b"".join(START + unit for unit in units) for units in pictures]


def _begins_picture(codec: str, kind: int, unit: bytes) -> bool:
    """Whether a unit is the first slice of a picture, in H.265 of the base layer."""
    size = HEADER_BYTES[codec]
    is_base = codec == "h264" or not (unit[0] & 1 or unit[1:2] > b"\7")
    return kind in FIRST[codec] and is_base and unit[size : size + 1] >= b"\x80"
