"""Upright pictures: cameras that are mounted turned or mirrored say so beside their pixels.

What they say is one of the eight orientations of EXIF (tag 0x0112), 1 where the picture is stored upright. The display
matrix of a video (ISO/IEC 14496-12, 8.3.2) names the same eight.
"""

from __future__ import annotations

import math
import struct

import numpy as np

UPRIGHT = 1
DIRECTIONS = {
    (1, 0, 0, 1): 1,
    (-1, 0, 0, 1): 2,  # mirrored, left to right
    (-1, 0, 0, -1): 3,  # half a turn
    (1, 0, 0, -1): 4,  # mirrored, top to bottom
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,  # to be turned clockwise by 90 degrees
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,  # to be turned anticlockwise by 90 degrees
}
"""Orientations by where a step to the right and a step down in the stored picture lead: (right, down, right, down)."""
JPEG, JPEG_SCAN = b"\xff\xd8", b"\xda"  # how a JPEG begins, and the marker of the pixels in it
EXIF_MARKS = {JPEG: (b"Exif\0\0", 6), b"\x89P": (b"eXIf", 4), b"RI": (b"EXIF", 8)}
EXIF_MARKS |= {b"II": (b"II*\0", 0), b"MM": (b"MM\0*", 0)}
"""How EXIF begins in JPEG, PNG, WebP and TIFF files, told by their first bytes, and how many bytes that takes."""
BOXES = {(0, 1): 2, (0, 0): 4, (1, None): 8, (1, 0): 5, (1, 1): 7, (2, None): 3, (2, 0): 2, (2, 1): 4}
BOXES |= {(3, None): 6, (3, 0): 7, (3, 1): 5}
"""Orientations by the boxes of AVIF: quarters of a turn, anticlockwise, then a mirror (0: of top and bottom)."""
ORIENTATION = 0x0112
MOST_SKEW = math.sin(math.radians(1))  # what ffmpeg takes for a right angle


def orient(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn a picture upright: (H, W, ...) of any dtype to (H, W, ...), or (W, H, ...) for 5 to 8, contiguous.

    `orientation` is one of EXIF's, 1 to 8; others, which files have too, count as upright.
    """
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def read_matrix_orientation(matrix: np.ndarray) -> int | None:
    """The orientation, 1 to 8, that a display matrix asks for; None where it is no right angle. Scale is ignored.

    `matrix` (3, 3) is as files store it: its first two rows say where a step right, and one down, lead.
    """
    directions = np.array(matrix, float)[:2, :2]
    lengths = np.hypot(directions[:, 0], directions[:, 1])
    if not lengths.all():
        return UPRIGHT if not directions.any() else None
    directions /= lengths[:, None]
    steps = np.rint(directions)
    if np.abs(directions - steps).max() > MOST_SKEW:
        return None
    return DIRECTIONS.get((int(steps[0, 0]), int(steps[0, 1]), int(steps[1, 0]), int(steps[1, 1])))


def find_orientation(data: bytes) -> tuple[int, bytes]:
    """What a picture file says of its orientation, 1 to 8 (1 where it says nothing), and the file for a decoder.

    Reads the EXIF of JPEG, PNG and WebP, the boxes of AVIF (ISO/IEC 23008-12, 6.5.10 and 6.5.12), and the tag of TIFF.
    TIFF is given without its tag: OpenCV 5.0 turns it unasked, and cannot decode it where the tag is 5 to 8.
    """
    if data[4:8] == b"ftyp":
        at = data.find(b"ipco")
        end = at - 4 + int.from_bytes(data[at - 4 : at], "big")
        turn, mirror = (data.find(name, at, end) for name in (b"irot", b"imir"))
        said = data[turn + 4] & 3 if turn > 0 else 0, data[mirror + 4] & 1 if mirror > 0 else None
        return BOXES.get(said, UPRIGHT), data
    mark, length = EXIF_MARKS.get(data[:2], (b"none", 0))
    at = data.find(mark, 0, _find_scan(data) if data.startswith(JPEG) else len(data)) + length
    at += 6 * data.startswith(b"Exif\0\0", at)  # which some write in WebP
    order = {b"II": "<", b"MM": ">"}.get(data[at : at + 2])
    if at < length or order is None:
        return UPRIGHT, data
    try:
        (start,) = struct.unpack_from(f"{order}I", data, at + 4)
        (count,) = struct.unpack_from(f"{order}H", data, at + start)
        for entry in range(at + start + 2, at + start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", data, entry)
            if tag == ORIENTATION and 1 <= value <= 8:
                bare = data[: entry + 8] + struct.pack(f"{order}H", UPRIGHT) + data[entry + 10 :]
                return value, bare if at == 0 else data
    except struct.error:  # cut off
        pass
    return UPRIGHT, data


def _find_scan(data: bytes) -> int:
    """Where the pixels of a JPEG begin, which take long to search; its end if its segments do not lead there."""
    at = len(JPEG)
    while data[at : at + 1] == b"\xff":
        marker, length = data[at + 1 : at + 2], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == JPEG_SCAN:
            return at
        at += 1 if marker == b"\xff" else 2 + length  # markers may be filled up in front
    return len(data)
