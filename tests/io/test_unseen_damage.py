"""What damage a codec does not show is said, for every codec that can be written here: the lists are not too short."""

import logging

import av
import pytest

from streamtok.io.codecs.whole_packets import COUNTS, FILLS_UP
from streamtok.io.video import VideoReader
from streamtok.io.video.frame_images import to_image
from tests.kit.damage import cut_one, rewrite
from tests.kit.videos import writable_codecs, write_any

HIT, KEY = 11, 8  # packets; the second is a key frame where there are others
SHARES = (0.02, 0.3, 0.6, 0.95)


def wrong(path, right):
    """How many pictures are delivered that the whole video has not; and how many in all."""
    with VideoReader(path) as video:
        found = [one.image.tobytes() for one in video]
    return sum(image not in right for image in found), len(found)


def find_unseen(path, target):
    """The name of the decoder of a video, and which kinds of damage to its packets give wrong pictures; None if its
    packets cannot be copied."""
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context.name
        right = {to_image(frame).tobytes() for frame in container.decode(video=0)}
    if wrong(rewrite(path, target, lambda packets: packets), right)[0]:
        return codec, set()
    unseen = set()
    for share in SHARES:
        if wrong(rewrite(path, target, lambda packets, share=share: cut_one(packets, HIT, share)), right)[0]:
            unseen.add("cut")
    for hit in (HIT, KEY):
        if wrong(rewrite(path, target, lambda packets, hit=hit: packets[:hit] + packets[hit + 1 :]), right)[0]:
            unseen.add("lost")
    return codec, unseen


@pytest.mark.slow
def test_what_damage_a_codec_does_not_show_is_listed(tmp_path, caplog):
    caplog.set_level(logging.CRITICAL)
    seen, failed = set(), set()
    for codec in writable_codecs():
        for suffix in ("mkv", "avi", "mov"):
            path = tmp_path / f"a.{suffix}"
            try:
                if not write_any(path, codec.name):
                    continue
                decoder, unseen = find_unseen(path, tmp_path / f"b.{suffix}")
            except (av.FFmpegError, ValueError):  # packets that cannot be copied
                continue
            seen.add(decoder)
            allowed = {"cut"} if decoder in FILLS_UP else set()
            allowed |= set() if decoder in COUNTS or codec.intra_only else {"lost"}
            failed |= {(decoder, kind) for kind in unseen - allowed}
    assert not failed
    assert len(seen) > 40
