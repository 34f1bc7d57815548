"""Read, write, encode and caption still pictures: uint8 RGB (H, W, 3), or the channels of a .npy file."""

import contextlib
import io
import logging
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from streamtok.config.tokenizer_config import MOST_CHANNELS
from streamtok.preprocessing.orientation import UPRIGHT, find_orientation, orient
from streamtok.preprocessing.pixels import RawImage

log = logging.getLogger("streamtok.io")

JPEG_QUALITY = 92
BAR = 22  # height of a caption in pixels
INK, PAPER = (235, 235, 235), (28, 28, 30)
ARRAY_FILE = b"\x93NUMPY"  # how a .npy file begins
PNM = re.compile(rb"P[2356](?:(?:\s|#[^\n]*\n)+(\d+)){3}\s")  # width, height and the value of white
SUBFILE_TYPE, MOST_PAGES = 254, 1_000_000  # of TIFF
BAYER = re.compile(r"bayer_[rgb]{4}")
ANY_DEPTH = 1 | 2  # cv2.IMREAD_COLOR and IMREAD_ANYDEPTH: colours of 8 or 16 bits as they are stored
STILL_NS = 100_000_000  # duration of a picture of an animation that gives none

ImageData = bytes | bytearray | memoryview | np.ndarray
"""The bytes of an image, as a message or a file gives them; an array is uint8 (n,)."""


class DamagedFrame(ValueError):
    """One image that cannot be read; the text says why."""


def read_image(path: str | Path, bits: int | None = None) -> np.ndarray:
    """Read a picture file upright, uint8 RGB (H, W, 3): an animation's first picture, (H, W, C) of a .npy file.

    `bits` is as in `decode_image_file`. Raises FileNotFoundError, or ValueError if it is no picture or damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return decode_image_file(Path(path).read_bytes(), bits)[0]
    except DamagedFrame as error:
        raise ValueError(f"{path} is no image that can be read: {error}") from error


def decode_image_file(data: bytes, bits: int | None = None) -> tuple[np.ndarray, bool]:
    """Decode a picture file in memory: (picture, as stored), uint8 RGB (H, W, 3), upright as its EXIF says.

    `as stored`: the file itself is upright and has 8 bits, so that plain decoders give the same picture. `bits` is the
    depth of 16-bit values: 12 for 12-bit cameras that do not scale theirs. None takes the high bytes, and of PNM the
    white that it states. A .npy file gives its channels as they are, a single one as grey. Raises DamagedFrame.
    """
    if data.startswith(ARRAY_FILE):
        return _to_eight_bits(_read_array(data), bits or 16), False
    import cv2

    orientation, stored = find_orientation(data)
    white = find_white(data) if bits is None else None
    if white:
        image = (_decode(stored, ANY_DEPTH) * (255 / white)).round().clip(0, 255).astype(np.uint8)
    else:
        image = _decode(stored, cv2.IMREAD_COLOR) if bits is None else _to_eight_bits(_decode(stored, ANY_DEPTH), bits)
    as_stored = bits is None and white is None and orientation == UPRIGHT
    return orient(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), orientation), as_stored


def find_white(data: bytes) -> int | None:
    """The value of white that a PNM file states, which OpenCV ignores; None if it fills 8 or 16 bits."""
    found = PNM.match(data)
    return int(found[1]) if found and int(found[1]) not in (0, 255, 65535) else None


def decode_still(data: ImageData, encoding: str = "") -> np.ndarray:
    """Decode a JPEG, PNG or WebP file in memory to uint8 RGB (H, W, 3), upright as its EXIF says; raises DamagedFrame.

    A picture of one channel in a Bayer `encoding` is demosaiced; some senders do that before compression.
    """
    import cv2

    orientation, stored = find_orientation(bytes(data))
    bayer = BAYER.match(encoding)
    image = _decode(stored, cv2.IMREAD_ANYCOLOR if bayer else cv2.IMREAD_COLOR)
    if not bayer or image.ndim == 3:
        return orient(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), orientation)
    try:
        return RawImage(image, f"{bayer[0]}8", *image.shape).rgb()
    except ValueError as error:
        raise DamagedFrame(str(error)) from error


def _decode(data: bytes, mode: int) -> np.ndarray:
    """Decode a picture file with an OpenCV `mode`: BGR or grey, orientation not applied; raises DamagedFrame."""
    import cv2

    buffer = np.frombuffer(data, np.uint8)
    if not buffer.size:
        raise DamagedFrame("an empty image")
    if not is_whole_jpeg(data):
        raise DamagedFrame("a JPEG that is cut off")
    try:
        image = cv2.imdecode(buffer, mode | cv2.IMREAD_IGNORE_ORIENTATION)
        stored = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED) if image is None else image
    except cv2.error as error:
        raise DamagedFrame(f"the decoder refuses it: {error}") from error
    if stored is None:
        raise DamagedFrame(f"no picture in its {buffer.size} bytes")
    if image is None or image.dtype not in (np.uint8, np.uint16):
        wanted = "expected 8 or 16 bits: convert it, or give an array (.npy) of uint16"
        raise DamagedFrame(f"its values are {stored.dtype}, {wanted}")
    return image


def is_grey_16(path: Path) -> bool:
    """Whether a picture file holds one channel of 16 bits."""
    import cv2

    with contextlib.suppress(ValueError, EOFError, OSError):
        data = path.read_bytes()
        is_array = data.startswith(ARRAY_FILE)
        image = np.load(io.BytesIO(data)) if is_array else _decode(data, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
        return image.shape[2:] in ((), (1,)) and image.dtype == np.uint16
    return False


def is_whole_jpeg(data: ImageData) -> bool:
    """Whether a JPEG has its end marker; without it decoders fill the rest of the picture with grey.

    Other bytes may follow the marker, as some cameras send them. A thumbnail in the header has a marker of its own.
    """
    if bytes(data[:2]) != b"\xff\xd8" or b"\xff\xd9" in bytes(data[-64:]):
        return True
    whole, at = bytes(data), 2
    while at + 4 <= len(whole) and whole[at] == 0xFF:
        begins_scan = whole[at + 1] == 0xDA
        at += 2 + int.from_bytes(whole[at + 2 : at + 4], "big")
        if begins_scan:
            return whole.find(b"\xff\xd9", at) >= 0
    return False


def _to_eight_bits(image: np.ndarray, bits: int) -> np.ndarray:
    """Scale 16-bit values with `bits` significant bits to uint8; 8-bit values stay as they are."""
    return (image >> (bits - 8)).clip(0, 255).astype(np.uint8) if image.dtype == np.uint16 else image


def _read_array(data: bytes) -> np.ndarray:
    """The picture in a .npy file, uint8 or uint16 (H, W, C); a single channel is repeated to 3. Loads no pickles.

    Raises DamagedFrame.
    """
    try:
        image = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DamagedFrame(f"no array that can be read: {error}") from error
    image = image[..., None] if image.ndim == 2 else image
    if image.ndim != 3 or not image.size or image.dtype not in (np.uint8, np.uint16):
        raise DamagedFrame(f"an array of {image.dtype} {image.shape}, expected uint8 or uint16 (H, W[, channels])")
    if image.shape[2] > MOST_CHANNELS:
        raise DamagedFrame(f"an array of {image.shape[2]} channels, expected (H, W, channels), at most {MOST_CHANNELS}")
    return np.ascontiguousarray(np.repeat(image, 3, 2) if image.shape[2] == 1 else image)


def warn_of_dark(data: bytes, path: Path, source: str) -> None:
    """Warn if the values of a 16-bit picture file fill fewer bits, so that it comes out dark."""
    if data[4:8] == b"ftyp" or find_white(data):  # AVIF and PNM say what white is
        return
    image = _read_array(data) if data.startswith(ARRAY_FILE) else _decode(data, ANY_DEPTH)
    bits = next(bits for bits in (8, 10, 12, 14, 16) if image.max() < 1 << bits)
    if image.dtype == np.uint16 and bits < 16:
        advice = f"16-bit values that fill {bits} bits come out dark: {source}?bits={bits} if all do"
        log.warning("file=%s event=dark reason=%r", path, advice)


def is_animation(data: bytes) -> bool:
    """Whether a picture file (WebP, AVIF, PNG or TIFF) holds several pictures."""
    if data[:4] in (b"II*\0", b"MM\0*"):
        return _count_pages(data) > 1
    if data[:4] == b"\x89PNG":
        return b"acTL" in data[: data.find(b"IDAT")]
    if data[8:12] == b"WEBP":
        return data[12:16] == b"VP8X" and bool(data[20] & 2)
    return data[4:12] == b"ftypavis"


def read_pictures(path: Path, bits: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """(time, picture) of the one picture of a file, or of each in an animation: ns from the first on, uint8 RGB
    (H, W, 3), upright. Raises ValueError if it cannot be read.
    """
    import cv2

    data = path.read_bytes()
    orientation, _ = find_orientation(data)
    if not is_animation(data):
        yield 0, read_image(path, bits)
        return
    if data[:2] in (b"II", b"MM"):
        for number in range(_count_pages(data)):
            yield number * STILL_NS, orient(_read_page(path, number, bits or 16), orientation)
        return
    if not hasattr(cv2, "imreadanimation"):
        raise ValueError(f"{path} is an animation, which needs OpenCV 4.11; this is {cv2.__version__}")
    done, animation = cv2.imreadanimation(str(path))
    if not done:
        raise ValueError(f"{path} is no animation that can be read: damaged, or not what its name says")
    time_ns, depth = 0, 12 if data[data.find(b"av1C") + 6] & 0x20 else 10  # of AVIF, which OpenCV gives as it is
    for image, duration_ms in zip(animation.frames, animation.durations, strict=True):
        yield time_ns, orient(_to_eight_bits(image[..., 2::-1], bits or depth), orientation)
        time_ns += int(duration_ms) * 1_000_000 or STILL_NS


def _count_pages(data: bytes) -> int:
    """The number of pictures in a TIFF file, up to the first reduced copy."""
    order, pages, at = "<" if data.startswith(b"I") else ">", 0, 4
    with contextlib.suppress(struct.error):  # cut off
        while (at := struct.unpack_from(f"{order}I", data, at)[0]) and pages < MOST_PAGES:
            (fields,) = struct.unpack_from(f"{order}H", data, at)
            tag, _, _, kind = struct.unpack_from(f"{order}HHII", data, at + 2)
            if tag == SUBFILE_TYPE and kind & 1:
                break
            pages, at = pages + 1, at + 2 + 12 * fields
    return pages


def _read_page(path: Path, number: int, bits: int) -> np.ndarray:
    """One picture of a TIFF file, uint8 RGB (H, W, 3), orientation not applied."""
    import cv2

    done, images = cv2.imreadmulti(str(path), number, 1, flags=ANY_DEPTH | cv2.IMREAD_IGNORE_ORIENTATION)
    if not done or images[0].dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{path}: its picture {number} is damaged, or has no 8 or 16 bits")
    return _to_eight_bits(images[0][..., ::-1], bits)


def write_png(path: Path, image: np.ndarray) -> None:
    """Write a picture, uint8 RGB (H, W, 3), as PNG; OSError if it cannot be written."""
    import cv2

    if not cv2.imwrite(str(path), np.ascontiguousarray(image[..., ::-1])):
        raise OSError(f"{path}: the picture could not be written (is the disk full, or the folder read-only?)")


def encode_jpeg(image: np.ndarray) -> bytes:
    """Encode a picture, uint8 (H, W, C), as a JPEG file of its first three channels; see `show_channels`."""
    import cv2

    image = show_channels(image)
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise ValueError(f"no JPEG from an image of shape {image.shape}")
    return data.tobytes()


def show_channels(image: np.ndarray) -> np.ndarray:
    """A picture, uint8 (H, W, C), for display: its first three channels as RGB (H, W, 3), missing ones as zeros."""
    return np.pad(image[..., :3], ((0, 0), (0, 0), (0, max(0, 3 - image.shape[2]))))


def caption(text: str, width: int) -> np.ndarray:
    """A bar with a line of text, uint8 RGB (BAR, width, 3)."""
    import cv2

    bar = np.full((BAR, width, 3), PAPER, np.uint8)
    return cv2.putText(bar, text, (6, BAR - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.42, INK, 1, cv2.LINE_AA)
