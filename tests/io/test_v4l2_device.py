"""A V4L2 camera as OpenCV gives it, played by a stand-in: no such device can be made without a kernel module."""

import time

import cv2
import numpy as np
import pytest

from streamtok.io.cameras.camera import CameraSource
from streamtok.io.cameras.v4l2_device import V4L2Device

AGE_MS = 2000  # of an image when it is taken from the driver


class Driver:
    """What cv2.VideoCapture does: `images` are BGR, None for one that cannot be decoded; then it is unplugged.

    Images in bytes are JPEGs. As cap_v4l.cpp, it decodes them unless it is asked not to convert; then each is a row.
    """

    def __init__(self, images, stamps=True, form=0):
        self.images, self.stamps, self.form, self.set_to = list(images), stamps, form, {}

    def isOpened(self):
        return True

    def set(self, name, value):
        self.set_to[name] = value
        return False

    def get(self, name):
        if name == cv2.CAP_PROP_POS_MSEC:
            stamp = self.stamps if isinstance(self.stamps, bool) else self.stamps.pop(0)
            return time.monotonic() * 1000 - AGE_MS if stamp else 0.0
        facts = {cv2.CAP_PROP_FRAME_HEIGHT: 8, cv2.CAP_PROP_FRAME_WIDTH: 16, cv2.CAP_PROP_FPS: 30}
        return (facts | {cv2.CAP_PROP_FOURCC: self.form}).get(name, 0)

    def grab(self):
        return bool(self.images)

    def retrieve(self):
        image = self.images.pop(0)
        if isinstance(image, bytes):
            image = np.frombuffer(image, np.uint8).reshape(1, -1)
            image = image if self.set_to.get(cv2.CAP_PROP_CONVERT_RGB) == 0 else cv2.imdecode(image, cv2.IMREAD_COLOR)
        return image is not None, image

    def release(self):
        pass


@pytest.fixture
def plug(monkeypatch, tmp_path):
    """Make a device of a driver."""
    path = tmp_path / "video0"
    path.write_bytes(b"")

    def make(driver, **options):
        monkeypatch.setattr(cv2, "VideoCapture", lambda target, api: driver)
        return V4L2Device(str(path), **options)

    return make


BLUE = np.full((8, 16, 3), (255, 0, 0), np.uint8)


@pytest.mark.parametrize("stamps", [True, False])
def test_images_are_rgb_at_the_driver_s_time_or_on_arrival(plug, stamps):
    device = plug(Driver([BLUE, BLUE], stamps))
    device.connect()
    before = time.monotonic_ns()
    one = device.grab()
    assert one.image[0, 0].tolist() == [0, 0, 255]
    assert one.timed == stamps
    assert (one.capture_ns < before) == stamps
    assert device.grab().timed == stamps


def test_an_image_that_cannot_be_decoded_is_damaged_and_the_camera_goes_on(plug):
    device = plug(Driver([BLUE, None, np.empty(0, np.uint8), BLUE]))
    with CameraSource(device, max_frames=2) as source:
        frames = [source.read(60), source.read(60)]
    assert [frame.frame_id for frame in frames] == [0, 3]
    assert (source.counts["damaged"], source.counts["reconnects"]) == (2, 0)


JPEG = cv2.imencode(".jpg", np.full((48, 64, 3), (255, 0, 0), np.uint8))[1].tobytes()


@pytest.mark.parametrize(
    "data",
    [JPEG[:-30], b"\0" + JPEG[1:], b"\0\0" + JPEG, JPEG[100:], bytes(2000)],
    ids=["cut off", "first byte wrong", "bytes before it", "its end alone", "zeros"],
)
def test_a_motion_jpeg_that_is_not_whole_is_damaged(plug, data):
    driver = Driver([JPEG, data, JPEG], form=cv2.VideoWriter.fourcc(*"MJPG"))
    with CameraSource(plug(driver), max_frames=2) as source:
        frames = [source.read(60), source.read(60)]
    assert [frame.frame_id for frame in frames] == [0, 2]
    assert source.counts["damaged"] == 1
    assert all(np.abs(frame.image.astype(int) - (0, 0, 255)).max() < 5 for frame in frames)


def test_an_image_of_one_row_that_is_no_jpeg_is_an_image(plug):
    device = plug(Driver([BLUE[:1]]))
    device.connect()
    assert device.grab().image.tolist() == BLUE[:1, :, ::-1].tolist()


def test_a_picture_without_a_stamp_leaves_the_others_theirs(plug):
    device = plug(Driver([BLUE] * 4, [True, False, True, True]))
    device.connect()
    assert [device.grab().timed for _ in range(4)] == [True, False, True, True]


def test_images_that_cannot_be_decoded_count_also_where_the_camera_is_lost(plug):
    device = plug(Driver([BLUE, *[None] * 40, BLUE]))
    with CameraSource(device, max_frames=2) as source:
        assert all(source.read(60) for _ in range(2))
    assert source.counts["damaged"] == 40


def test_a_camera_of_which_nothing_can_be_decoded_is_lost(plug):
    device = plug(Driver([None] * 1000))
    device.connect()
    assert device.grab() is None


def test_what_was_asked_and_is_not_given_is_said(plug, caplog):
    device = plug(Driver([BLUE]), size=(720, 1280), fps=60, format="MJPG")
    device.connect()
    assert (device.size, device.fps) == ((8, 16), 30)
    assert "asked=(720, 1280) given=(8, 16)" in caplog.text
    assert "asked=60 given=30" in caplog.text
    caplog.clear()
    plug(Driver([BLUE]), fps=29.97).connect()
    assert not caplog.text
