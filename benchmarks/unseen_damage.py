"""Counts the damage to video files that nothing shows: copies of which a wrong picture is delivered as good.

    PYTHONPATH=. python benchmarks/unseen_damage.py [--copies 100] [--codecs h264-cabac av1] [--containers mp4 ts]

A clip of 40 pictures of the synthetic drive, with noise, is encoded. One packet of each copy is damaged: a bit is
flipped; 1 to 64 bytes are overwritten, missing or inserted; its end is cut off; it is missing, comes twice or after the
next one. A picture is wrong if no picture of the whole clip is within ROUNDING of it in every byte. Prints how many
percent of the copies gave a wrong picture; and of their pictures, how many were wrong, delivered, and left out.
"""

import argparse
import logging
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import av
import numpy as np

from streamtok.io.source import open_source
from streamtok.io.video import VideoReader
from tests.kit.damage import rewrite
from tests.kit.videos import write_video

COUNT, ROUNDING = 40, 3
X264 = {"g": "10", "sc_threshold": "0", "crf": "26"}
X265 = "keyint=10:min-keyint=10:scenecut=0:log-level=none:pools=1:bframes=2"
CODECS = {
    "h264-cavlc": ("libx264", {**X264, "coder": "0", "bf": "0", "profile": "baseline"}),
    "h264-cabac": ("libx264", {**X264, "bf": "2"}),
    "h265": ("libx265", {"x265-params": X265, "crf": "26"}),
    "h265-hash": ("libx265", {"x265-params": f"{X265}:hash=1", "crf": "26"}),
    "mpeg2": ("mpeg2video", {"g": "10", "b": "2M", "bf": "2"}),
    "mpeg4": ("mpeg4", {"g": "10", "b": "2M"}),
    "mjpeg": ("mjpeg", {}),
    "av1": ("libsvtav1", {"g": "10", "preset": "12", "crf": "30", "svtav1-params": "lp=1"}),
    "vp9": ("libvpx-vp9", {"g": "10", "cpu-used": "8", "deadline": "realtime", "crf": "30", "b": "0"}),
}
OF_STREAMS = ("mjpeg", "av1", "vp9")
"""Codecs that transport streams do not hold."""
Packets = list[tuple[bytes, int]]


def change_bytes(data: bytes, kind: str, draw: random.Random) -> bytes:
    """Damage the bytes of a packet behind its first ones."""
    at, count = draw.randrange(min(12, len(data) - 1), len(data)), draw.choice([1, 4, 16, 64])
    old = data[at : at + count]
    new = {
        "bit": bytes([data[at] ^ 1 << draw.randrange(8)]) + old[1:],
        "over": draw.randbytes(len(old)),
        "missing": b"",
        "inserted": draw.randbytes(count) + old,
    }
    return data[:at] if kind == "cut" else data[:at] + new[kind] + data[at + len(old) :]


def change_packets(packets: Packets, kind: str, draw: random.Random) -> Packets:
    """Damage one packet."""
    hit = draw.randrange(2, COUNT - 2)
    before, (data, pts), after = packets[:hit], packets[hit], packets[hit + 1 :]
    whole = {"lost": [], "twice": [(data, pts)] * 2, "late": [after[0], (data, pts)]}
    new = whole[kind] if kind in whole else [(change_bytes(data, kind, draw), pts)]
    return before + new + after[kind == "late" :]


KINDS = ("bit", "over", "missing", "inserted", "cut", "lost", "twice", "late")


def judge(path: Path, right: np.ndarray) -> Counter[str]:
    """Read a copy and count its pictures; `right`: uint8 (N, H, W, 3)."""
    found: Counter[str] = Counter()
    exact = {image.tobytes() for image in right}
    try:
        with VideoReader(path) as video:
            for picture in video:
                same = picture.image.tobytes() in exact
                found["wrong"] += (
                    not same and (abs(right - picture.image.astype(np.int16)).max((1, 2, 3)) > ROUNDING).all()
                )
                found["delivered"] += 1
            found["left_out"] += sum(video.counts.values())
    except (OSError, ValueError):  # nothing is delivered
        found["left_out"] += COUNT
    return found


def measure(path: Path, kind: str, copies: int) -> tuple[int, int, Counter[str]]:
    """Damage and read copies of a clip: how many were made, how many gave a wrong picture, and all pictures."""
    draw, made, bad, total = random.Random(kind), 0, 0, Counter()
    with av.open(str(path)) as container:
        right = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    change: Callable[[Packets], Packets] = partial(change_packets, kind=kind, draw=draw)
    for _ in range(copies):
        try:
            copy = rewrite(path, path.with_stem("copy"), change)
        except av.FFmpegError:  # a packet that FFmpeg does not write
            continue
        found = judge(copy, right)
        made, bad, total = made + 1, bad + (found["wrong"] > 0), total + found
    return made, bad, total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=100)
    parser.add_argument("--codecs", nargs="+", choices=CODECS, default=list(CODECS))
    parser.add_argument("--containers", nargs="+", default=["mp4", "ts"])
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with open_source(f"synthetic:192x320@25?seed=3&frames={COUNT}") as source:
        images = np.stack([frame.image for frame in source])
    noise = np.random.default_rng(5).integers(-6, 7, images.shape)
    images = np.clip(images.astype(int) + noise, 0, 255).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        for container in options.containers:
            for name in options.codecs:
                if container == "ts" and name in OF_STREAMS:
                    continue
                codec, settings = CODECS[name]
                path = write_video(Path(folder) / f"{name}.{container}", images, codec=codec, **settings)
                for kind in KINDS:
                    made, bad, total = measure(path, kind, options.copies)
                    share = f"{100 * bad / made:.0f} %" if made else "none made"
                    print(f"{container:4} {name:11} {kind:9} {share:>9}", dict(total), flush=True)


if __name__ == "__main__":
    main()
