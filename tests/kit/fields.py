"""MPEG-2 whose fields are pictures of their own (ITU-T H.262, 6.2.3), which no encoder at hand makes."""

import re
from fractions import Fraction

import av
import numpy as np

PICTURE, EXTENSION, SEQUENCE, GROUP = 0x00, 0xB5, 0xB3, 0xB8  # start codes
TOP, BOTTOM = 1, 2


def encode_fields(images):
    """Each of some pictures of half the height as an access unit of its own."""
    context = av.CodecContext.create("mpeg2video", "w")
    context.height, context.width, context.pix_fmt = *images.shape[1:3], "yuv420p"
    context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
    context.options = {"g": "1", "qmin": "2", "qmax": "2"}
    frames = [av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24") for image in images]
    return [bytes(packet) for frame in [*frames, None] for packet in context.encode(frame)]


def split_codes(data):
    """What begins with each start code."""
    starts = [match.start() for match in re.finditer(b"\0\0\1", data)]
    return [data[at:end] for at, end in zip(starts, [*starts[1:], len(data)], strict=True)]


def describe(extension, parity, predicted=False):
    """A picture coding extension for a field."""
    changed = bytearray(extension)
    if predicted:
        changed[4:7] = 0x81, 0x1F, 0xF0 | changed[6]
    changed[6] = changed[6] & 0xFC | parity
    changed[7] &= 0x3F  # neither top_field_first nor frame_pred_frame_dct
    changed[8] &= 0x7F
    return bytes(changed)


def write_bits(bits):
    return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")


def repeat_field(size, number, parity, extension, source):
    """A predicted field of (height, width) that shows the `source` field, TOP or BOTTOM, before it once more."""
    height, width = size
    head = b"\0\0\1\0" + write_bits(f"{number:010b}010{'1' * 16}01110")
    block = f"100101{source - 1}11"  # the next one, predicted from a field, which has not moved
    slices = [
        b"\0\0\1" + bytes([row + 1]) + write_bits("000100" + block * (width // 16)) for row in range(height // 32)
    ]
    return head + describe(extension, parity, predicted=True) + b"".join(slices)


def number_field(units, number, parity):
    """The units of an intra picture as those of a field."""
    for unit in units:
        if unit[3] == PICTURE:
            yield unit[:4] + bytes([number >> 2, unit[5] & 0x3F | (number & 3) << 6]) + unit[6:]
        elif unit[3] == EXTENSION and unit[4] >> 4 == 8:
            yield describe(unit, parity)
        elif 0 < unit[3] < 0xB0:
            yield unit


def write_field_pictures(path, images, group):
    """A video of two fields for each picture; those of one in `group` pictures are new, the others repeat them."""
    height, width = images.shape[1:3]
    units = [[split_codes(unit) for unit in encode_fields(images[:, parity::2])] for parity in (0, 1)]
    data = b""
    for place in range(len(images)):
        tops, bottoms, number = units[0][place], units[1][place], place % group
        extension = next(unit for unit in tops if unit[3] == EXTENSION and unit[4] >> 4 == 8)
        if number:
            fields = [repeat_field((height, width), number, parity, extension, parity) for parity in (TOP, BOTTOM)]
            data += b"".join(fields)
            continue
        for unit in tops:
            if unit[3] == SEQUENCE:
                data += unit[:5] + bytes([unit[5] & 0xF0 | height >> 8, height & 255]) + unit[7:]
            elif unit[3] == EXTENSION and unit[4] >> 4 == 1:
                data += unit[:5] + bytes([unit[5] & 0xF7]) + unit[6:]  # not progressive
            elif unit[3] == GROUP:
                data += unit
        data += b"".join(number_field(tops, number, TOP)) + b"".join(number_field(bottoms, number, BOTTOM))
    raw = path.with_suffix(".m2v")
    raw.write_bytes(data + b"\0\0\1\xb7")
    with av.open(str(raw)) as source, av.open(str(path), "w") as container:
        stream = source.streams.video[0]
        out = container.add_stream_from_template(stream)
        period = round(Fraction(1, 25) / stream.time_base)
        for number, packet in enumerate(source.demux(stream)):
            if packet.size:
                packet.pts = packet.dts = number * period
                packet.stream = out
                container.mux(packet)
    return path
