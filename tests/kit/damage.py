"""Videos with a picture's number in every picture, and what loses, cuts, changes and reorders their packets."""

from fractions import Fraction

import av

from tests.kit.videos import noisy, write_video

COUNT = 40
X265 = "keyint=10:min-keyint=10:scenecut=0:log-level=none:pools=1"
X264 = {"g": "10", "sc_threshold": "0"}
MPEG2 = {"g": "10", "b": "5M", "flags": "+cgop", "sc_threshold": "1000000000"}  # its groups do not need each other
SVT = {"g": "10", "preset": "12", "crf": "10", "svtav1-params": "lp=1"}
KINDS = {
    "plain.mkv": ("libx264", {**X264, "bf": "0"}),
    "slices.mp4": ("libx264", {**X264, "bf": "0", "x264-params": "slices=4"}),
    "ordered.mp4": ("libx264", {**X264, "bf": "2"}),
    "open-gop.mkv": ("libx264", {**X264, "bf": "3", "x264-params": "open-gop=1:b-pyramid=normal:ref=4"}),
    "late.mkv": ("libx264", {**X264, "bf": "2", "x264-params": "open-gop=1:ref=3:b-adapt=0"}),
    "refreshed.mkv": ("libx264", {**X264, "bf": "0", "x264-params": "intra-refresh=1"}),
    "ordered.ts": ("libx264", {**X264, "bf": "2"}),
    "plain.ts": ("libx264", {**X264, "bf": "0"}),
    "baseline.ts": ("libx264", {**X264, "bf": "0", "coder": "0"}),
    "h265.mkv": ("libx265", {"x265-params": f"{X265}:bframes=3"}),
    "interlaced.mkv": (
        "libx265",
        {"x265-params": f"{X265}:bframes=3:interlace=1"},
    ),  # with messages beside each picture
    "leading.mkv": ("libx265", {"x265-params": f"{X265}:bframes=3:open-gop=0:radl=2"}),  # pictures shown before keys
    "h265.ts": ("libx265", {"x265-params": f"{X265}:bframes=3"}),
    "sums.mp4": ("libx265", {"x265-params": f"{X265}:bframes=3:hash=1"}),
    "sums.ts": ("libx265", {"x265-params": f"{X265}:bframes=0:hash=1"}),
    "mpeg2.mkv": ("mpeg2video", MPEG2),
    "mpeg1.mp4": ("mpeg1video", {**MPEG2, "bf": "2"}),
    "mpeg2-ordered.mkv": ("mpeg2video", {**MPEG2, "bf": "2"}),
    "av1.mkv": ("libsvtav1", SVT),  # of which some pictures are decoded long before they are shown
    "av1.mp4": ("libsvtav1", {**SVT, "svtav1-params": "lp=1:pred-struct=1"}),
    "mjpeg.mkv": ("mjpeg", {}),
    "mjpeg.avi": ("mjpeg", {}),
}
"""Of videos of every kind: their codec and its options. Those named "sums" carry checksums of their pictures."""
ESCAPED = [name for name, (codec, _) in KINDS.items() if codec in ("libx264", "libx265")]
"""Those in which no zeros follow each other."""
BLOCK = 188
PID = 256


def write_kind(folder, name):
    """A whole video of a kind, 25 pictures a second."""
    codec, options = KINDS[name]
    return write_pictures(folder / name, noisy(COUNT), codec, options)


def write_pictures(path, images, codec, options):
    """A video of pictures, 25 a second, of any codec and container."""
    return write_video(path, images, codec=codec, **options)


class Videos(dict):
    """Videos by name, which errors need not print."""

    def __repr__(self):
        return f"<{len(self)} videos>"


def rewrite(path, target, change, later=5):
    """Copy a video by its packets: `change` takes their list, of (bytes, pts), and gives another one.

    Pictures are shown `later` by so many periods, so that packets may come later than they should.
    """
    with av.open(str(path)) as source, av.open(str(target), "w") as container:
        stream = source.streams.video[0]
        out = container.add_stream_from_template(stream, opaque=True)  # AV1 has no encoder of the same name
        packets = [packet for packet in source.demux(stream) if packet.size]
        changed = change([(bytes(one), one.pts) for one in packets])
        for number, ((data, pts), old) in enumerate(zip(changed, packets, strict=False)):
            packet = av.Packet(data)
            period = round(Fraction(1, 25) / old.time_base)
            packet.pts, packet.dts, packet.time_base = pts + later * period, number * period, old.time_base
            packet.duration = period
            packet.is_keyframe, packet.stream = old.is_keyframe, out
            container.mux(packet)
    return target


def cut(data, share):
    """The first part of some bytes."""
    return data[: max(1, int(len(data) * share))]


def change_one(packets, hit, change):
    """Packets as `rewrite` has them, of which one is changed."""
    return [(change(data) if n == hit else data, pts) for n, (data, pts) in enumerate(packets)]


def cut_one(packets, hit, share):
    """Packets as `rewrite` has them, of which one is cut."""
    return change_one(packets, hit, lambda data: cut(data, share))


def flip(data, share):
    """Bytes of which one bit is another."""
    changed = bytearray(data)
    changed[min(int(len(data) * share), len(data) - 1)] ^= 4
    return bytes(changed)


def blank(data, share, count=400):
    """Bytes of which some are zero."""
    at = int(len(data) * share)
    return data[:at] + bytes(min(count, len(data) - at)) + data[at + count :]


def flip_one(packets, hit, share):
    """Packets as `rewrite` has them, of which one has a bit that is another."""
    return change_one(packets, hit, lambda data: flip(data, share))


def split_blocks(path):
    """The packets of a transport stream, and which of them are the video's."""
    data = path.read_bytes()
    blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
    return blocks, [n for n, block in enumerate(blocks) if (block[1] & 0x1F) << 8 | block[2] == PID]


def pictures_begin(path):
    """The packets of a transport stream with which its pictures begin."""
    with av.open(str(path)) as container:
        return [packet.pos // BLOCK for packet in container.demux(video=0) if packet.size]


def pictures_before(path, block):
    """How many pictures of a transport stream are decoded before the one that has a block, and their numbers."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        times = sorted(packet.pts for packet in packets)
        before = [packet for packet in packets if packet.pos < block * BLOCK]
    return [times.index(packet.pts) for packet in before[:-1]]
