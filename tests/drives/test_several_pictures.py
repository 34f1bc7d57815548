"""Messages of video that hold several pictures: each is a frame, and those without a time of their own are said."""

from fractions import Fraction

import av
import numpy as np
import pytest

from streamtok.drives.open_drive import open_drive
from tests.kit.drives import decode_video, encode_video, foxglove, frames_of, picture, write_topics

SIZE = 64, 96
FRAMES = frames_of("front", 24)
FRAME_NUMBERS = {frame.capture_ns: frame.frame_id for frame in FRAMES}
IMAGES = [picture(frame.frame_id, "front", SIZE) for frame in FRAMES]


def write_joined(path, packets, joined, codec, copies=()):
    """A video topic in which the packets `joined` share a message with the one before; `copies` are written twice."""
    messages = []
    for frame, packet in zip(FRAMES, packets, strict=True):
        if frame.frame_id in joined:
            messages[-1][1] += packet
        else:
            messages.append([frame, packet])
    messages = [one for one in messages for _ in range(1 + (one[0].frame_id in copies))]
    topic = [
        (frame.capture_ns, foxglove("CompressedVideo", frame, data=data, format=codec)) for frame, data in messages
    ]
    return write_topics(path, "foxglove.CompressedVideo", {"/front/video": topic})


def encode(encoder, options):
    """The packets of the frames, larger, in order of decoding."""
    context = av.CodecContext.create(encoder, "w")
    context.height, context.width, context.pix_fmt, context.time_base = 256, 384, "yuv420p", Fraction(1, 25)
    context.framerate, context.thread_count = 25, 1
    context.options = {"preset": "ultrafast"} | options
    packets = []
    for frame in FRAMES:
        shown = av.VideoFrame.from_ndarray(picture(frame.frame_id, "front", (256, 384)), format="rgb24")
        shown.pts, shown.time_base = frame.frame_id, context.time_base
        packets += context.encode(shown)
    return packets + context.encode(None)


def read(path):
    with open_drive(path) as drive:
        frames = list(drive)
    return frames, drive.account()["front"]


@pytest.mark.parametrize("codec", ["h264", "h265", "av1"])
@pytest.mark.parametrize("joined", [{1}, {5}, {10}, {11, 12, 17}, set(range(1, 24, 2)), {23}])
def test_every_picture_of_a_message_is_a_frame(tmp_path, codec, joined):
    packets = encode_video(IMAGES, codec)
    frames, account = read(write_joined(tmp_path / "d.mcap", packets, joined, codec, copies=[0, 4, 9]))
    np.testing.assert_array_equal([frame.image for frame in frames], decode_video(packets, codec))
    assert [frame.frame_id for frame in frames] == list(range(24))
    assert all(
        frame.capture_ns == kept.capture_ns
        for frame, kept in zip(frames, FRAMES, strict=True)
        if frame.frame_id not in joined
    )
    assert [frame.capture_ns for frame in frames] == sorted({frame.capture_ns for frame in frames})
    assert (account["guessed"], account["damaged"], account["lost"]) == (len(joined), 0, 0)
    assert account["duplicates"] == len({0, 4, 9} - joined)


@pytest.mark.parametrize(
    ("encoder", "codec", "params"),
    [
        ("libx264", "h264", "slices=4:repeat-headers=1:annexb=1"),
        ("libx264", "h264", "aud=1:tff=1:repeat-headers=1:annexb=1"),
        ("libx265", "h265", "slices=2:aud=1:hash=1:repeat-headers=1:annexb=1:log-level=none"),
    ],
)
def test_a_picture_of_several_slices_is_one(tmp_path, encoder, codec, params):
    packets = [bytes(packet) for packet in encode(encoder, {"tune": "zerolatency", f"{encoder[3:]}-params": params})]
    frames, account = read(write_joined(tmp_path / "d.mcap", packets, set(), codec))
    assert (len(frames), account["images"], account["guessed"]) == (24, 24, 0)
    frames, account = read(write_joined(tmp_path / "e.mcap", packets, {3, 4}, codec))
    assert "tff" in params or (len(frames), account["guessed"]) == (24, 2)  # two first slices may be two fields


@pytest.mark.parametrize(("encoder", "codec"), [("libx264", "h264"), ("libx265", "h265")])
@pytest.mark.parametrize("joined", [{1}, {9}, set(range(1, 24, 2))])
def test_pictures_stored_in_another_order_than_shown_are_not_split(tmp_path, encoder, codec, joined):
    quiet = ":log-level=none" if codec == "h265" else ""
    params = "keyint=8:min-keyint=8:scenecut=0:bframes=2:repeat-headers=1:annexb=1" + quiet
    packets = encode(encoder, {f"{encoder[3:]}-params": params})
    shown = decode_video([bytes(packet) for packet in packets], codec)
    messages = []
    for number, packet in enumerate(packets):
        if number in joined:
            messages[-1][2] += bytes(packet)
        else:
            messages.append([FRAMES[number].capture_ns, FRAMES[packet.pts], bytes(packet)])
    topic = [(ns, foxglove("CompressedVideo", frame, data=data, format=codec)) for ns, frame, data in messages]
    frames, account = read(write_topics(tmp_path / "d.mcap", "foxglove.CompressedVideo", {"/front/video": topic}))
    for frame in frames:
        np.testing.assert_array_equal(frame.image, shown[FRAME_NUMBERS[frame.capture_ns]])
    assert (account["images"], account["guessed"]) == (len(messages), 0)
    assert account["damaged"]
