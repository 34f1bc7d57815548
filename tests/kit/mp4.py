"""MP4 files of parts that were encoded differently, as a recorder leaves them whose camera changed its size."""

import struct

import av

PATH = b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd"
MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
TICKS, STEP = 12800, 512


def ints(*values):
    return struct.pack(f">{len(values)}I", *values)


def box(kind, *parts):
    body = b"".join(parts)
    return ints(len(body) + 8) + kind + body


def full(kind, *parts):
    """A box with version 0 and no flags."""
    return box(kind, ints(0), *parts)


def entry_of(path):
    """How a file describes its samples (ISO/IEC 14496-12, 8.5.2)."""
    data = path.read_bytes()
    for kind in PATH:
        at = 0
        while data[at + 4 : at + 8] != kind:
            at += int.from_bytes(data[at : at + 4], "big")
        data = data[at + 8 : at + int.from_bytes(data[at : at + 4], "big")]
    return data[8:]


def samples_of(path):
    with av.open(str(path)) as container:
        return [(bytes(packet), packet.is_keyframe) for packet in container.demux(video=0) if packet.size]


def join_mp4(paths, target):
    """One track of the samples of all files, 25 a second, each part with its own description and in its own chunk."""
    parts = [samples_of(path) for path in paths]
    samples = [sample for part in parts for sample in part]
    keys = [number for number, (_, key) in enumerate(samples, 1) if key]
    sizes = [sum(len(data) for data, _ in part) for part in parts]
    head = box(b"ftyp", b"isom", ints(512), b"isomiso2avc1mp41") + box(b"mdat", *[data for data, _ in samples])
    places = [len(head) - sum(sizes[number:]) for number in range(len(parts))]
    table = box(
        b"stbl",
        full(b"stsd", ints(len(paths)), *map(entry_of, paths)),
        full(b"stts", ints(1, len(samples), STEP)),
        full(b"stsc", ints(len(parts)), *[ints(n, len(part), n) for n, part in enumerate(parts, 1)]),
        full(b"stsz", ints(0, len(samples)), *[ints(len(data)) for data, _ in samples]),
        full(b"stco", ints(len(parts)), ints(*places)),
        full(b"stss", ints(len(keys)), ints(*keys)),
    )
    length = STEP * len(samples)
    where = box(b"dinf", full(b"dref", ints(1), box(b"url ", ints(1))))
    media = box(
        b"mdia",
        full(b"mdhd", ints(0, 0, TICKS, length, 0x55C40000)),
        full(b"hdlr", ints(0), b"vide", bytes(12), b"v\0"),
        box(b"minf", box(b"vmhd", ints(1, 0, 0)), where, table),
    )
    track = box(b"trak", box(b"tkhd", ints(3, 0, 0, 1, 0, length), bytes(16), MATRIX, ints(96 << 16, 64 << 16)), media)
    film = full(b"mvhd", ints(0, 0, TICKS, length, 0x10000, 0x01000000, 0, 0), MATRIX, bytes(24), ints(2))
    target.write_bytes(head + box(b"moov", film, track))
    return target
