"""Live sources with real devices behind them: played recordings, and network cameras served by this process."""

import itertools
import logging
import shutil
import tempfile
import threading
import time
from contextlib import ExitStack

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtok.io.base import EndOfSource, FreezeWatch
from streamtok.io.cameras import camera
from streamtok.io.cameras.camera import Backoff, CameraSource, Grabbed
from streamtok.io.cameras.gstreamer_device import LAUNCH
from streamtok.io.cameras.network_camera import NetworkCamera
from streamtok.io.cameras.played_device import MachineClock, parse_played
from streamtok.io.source import open_source
from streamtok.io.synthetic import SyntheticDrive
from tests.kit.nodes import SteppedClock
from tests.kit.ports import keep_port
from tests.kit.threads import beside
from tests.kit.web import Server
from tests.kit.wire import eventually


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """On a busy machine a thread takes longer to end than a camera is waited for."""
    monkeypatch.setattr(camera, "JOIN_S", 60)


def played(spec, clock=None, **options):
    return CameraSource(parse_played(spec, open_source, clock), "front", backoff=Backoff(0.05, 0.1), **options)


def read_until(source, done, limit=60.0):
    """Frames until `done(frames)`; the end of the source, or of the time limit, ends it too."""
    frames, deadline = [], time.monotonic() + limit
    while not done(frames) and time.monotonic() < deadline:
        try:
            frame = source.read(0.05)
        except EndOfSource:
            break
        if frame is not None:
            frames.append(frame)
    return frames


def test_a_played_camera_gives_the_recording_in_real_time():
    drive = SyntheticDrive(48, 64, fps=50, seed=1)
    clock = SteppedClock()
    switched_on_ns = clock.now_ns()
    with played("camera:synthetic:48x64@50?seed=1&frames=20", clock) as source:
        frames = read_until(source, lambda frames: False)
        assert (source.live, source.fps, source.size) == (True, 50.0, (48, 64))
    assert source.state == "ended"
    assert source.end_reason == "end of the recording"
    assert 0 < frames[-1].frame_id < 20
    spacing = np.diff([frame.capture_ns for frame in frames]) / np.diff([frame.frame_id for frame in frames])
    assert np.all(spacing == 20_000_000)
    assert all(np.array_equal(frame.image, drive.frame(frame.frame_id)) for frame in frames)
    assert frames[-1].capture_ns - frames[0].capture_ns == (19 - frames[0].frame_id) * 20_000_000
    assert frames[-1].capture_ns == clock.now_ns() == switched_on_ns + 19 * 20_000_000


def test_the_machine_s_clock_waits():
    clock = MachineClock()
    due_ns = clock.now_ns() + 20_000_000
    clock.wait_until(due_ns)
    assert clock.now_ns() >= due_ns
    clock.wait_until(due_ns)  # too late already: at once


def test_an_outage_shows_as_a_gap_of_the_frames_that_it_cost():
    drive = SyntheticDrive(48, 64, fps=25, seed=2)
    states = set()
    with played("camera:synthetic:48x64@25?seed=2#lost=0.4-1.4") as source:

        def done(frames):
            states.add(source.state)
            return bool(frames) and frames[-1].frame_id > 40

        frames = read_until(source, done)
        counts = source.counts
    assert states == {"up", "lost"}
    assert counts["reconnects"] == 1
    ids = [frame.frame_id for frame in frames]
    assert not set(range(10, 35)) & set(ids)
    assert counts["missed"] >= 25
    assert all(np.array_equal(frame.image, drive.frame(frame.frame_id)) for frame in frames)


def test_a_camera_that_is_not_there_at_the_start_ends_it_or_is_waited_for():
    spec = "camera:synthetic:48x64@25?seed=2#lost=0-0.5"
    with pytest.raises(OSError, match="out of reach"):
        played(spec).open()
    source = played(spec)
    source.required = False
    with source:
        assert source.state == "lost"
        frames = read_until(source, lambda frames: len(frames) == 3)
        assert (source.state, source.fps, source.size) == ("up", 25.0, (48, 64))
    assert len(frames) == 3


def test_a_camera_that_never_comes_is_closed_at_once():
    source = played("camera:synthetic:48x64@25?seed=2#lost=0-500")
    source.required = False
    with source:
        assert source.read(0.05) is None
    assert source.state == "ended"
    assert not source.capture.is_alive()


def test_a_frozen_image_is_noticed_once_and_its_end_too():
    with played("camera:synthetic:48x64@25?seed=3#frozen=0.4-1.4", freeze_after=0.2) as source:
        seen = []

        def done(frames):
            seen.append(source.frozen)
            return bool(frames) and frames[-1].frame_id > 40

        frames = read_until(source, done)
        assert source.counts["frozen"] == 1
        assert source.state == "up"
    assert True in seen
    assert seen[-1] is False
    by_id = {frame.frame_id: frame.image for frame in frames}
    still = [by_id[n] for n in range(11, 35) if n in by_id]
    assert all(np.array_equal(image, still[0]) for image in still)


def test_a_looping_camera_goes_on_after_its_end():
    with played("camera:synthetic:48x64@25?frames=7#loop=1") as source:
        frames = read_until(source, lambda frames: len(frames) > 20)
    by_id = {frame.frame_id: frame for frame in frames}
    drive = SyntheticDrive(48, 64, fps=25)
    assert max(by_id) >= 20
    assert all(np.array_equal(frame.image, drive.frame(n % 7)) for n, frame in by_id.items())
    assert np.all(np.diff([frame.capture_ns for frame in frames]) > 0)


def test_a_reader_that_sleeps_loses_the_oldest_frames_and_sees_it():
    with played("camera:synthetic:48x64@100?frames=60", SteppedClock()) as source:
        source.capture.join()
        frames = read_until(source, lambda frames: False)
    assert 1 <= len(frames) <= 8
    assert source.counts["dropped"] > 0
    assert source.counts["dropped"] + source.counts["missed"] + len(frames) == frames[-1].frame_id + 1


def test_frames_that_come_too_late_are_missed_and_the_numbers_show_it():
    device = parse_played("camera:synthetic:48x64@100?seed=1", open_source)
    device.connect()
    device._switched_on_ns -= 10_000_000_000
    late = device.grab()
    assert late.number >= 980
    assert np.array_equal(late.image, SyntheticDrive(48, 64, fps=100, seed=1).frame(late.number))


def test_a_closed_camera_can_be_opened_again():
    source = played("camera:synthetic:48x64@100?seed=1")
    for _ in range(2):
        with source:
            assert read_until(source, lambda frames: len(frames) >= 2)
    assert source.state == "ended"


def test_max_frames_and_close_end_it_and_no_thread_is_left():
    before = threading.active_count()
    with open_source("camera:synthetic:48x64@100", max_frames=5) as source:
        assert len(list(source)) == 5
        assert "5 frames" in source.end_reason
    source = played("camera:synthetic:48x64@100")
    source.open()
    with beside(read_until, source, lambda frames: False):
        source.close()
    assert eventually(lambda: threading.active_count() <= before)
    with pytest.raises(EndOfSource, match="closed"):
        source.read(0)


class BrokenDriver:
    """A device whose driver fails in a way that nobody foresaw."""

    name, fps, size = "broken", 30.0, None

    def connect(self):
        pass

    def grab(self):
        raise RuntimeError("driver bug")

    def release(self):
        pass


def test_an_unforeseen_failure_ends_the_source_with_its_reason():
    with CameraSource(BrokenDriver()) as source, pytest.raises(EndOfSource, match="driver bug"):
        source.read(60)


class HangingDevice:
    """A device whose driver does not come back from its second image until it is let go."""

    name, fps, size = "hanging", 30.0, (8, 8)

    def __init__(self):
        self.goes_on, self.images = threading.Event(), 0

    def connect(self):
        pass

    def grab(self):
        self.images += 1
        if self.images > 1:
            self.goes_on.wait(60)
        return Grabbed(np.zeros((8, 8, 3), np.uint8), time.monotonic_ns())

    def release(self):
        pass


def test_a_device_that_hangs_holds_up_neither_reading_nor_closing(monkeypatch, caplog):
    monkeypatch.setattr(camera, "STALL_S", 60)
    monkeypatch.setattr(camera, "JOIN_S", 0.2)
    device = HangingDevice()
    with CameraSource(device, "front") as source:
        assert source.read(60) is not None
        began = time.monotonic()
        assert source.read(0.05) is None
        assert time.monotonic() - began < 30  # the device hangs for 60
        assert source.state == "up"
        monkeypatch.setattr(camera, "STALL_S", 0.3)
        assert read_until(source, lambda frames: source.state == "lost") == []
        assert "event=lost device=hanging reason='silent'" in caplog.text
        began = time.monotonic()
    assert time.monotonic() - began < 30
    source.close()
    assert caplog.text.count("event=device_hangs") == 1
    device.goes_on.set()


def test_a_hanging_device_that_goes_on_is_up_again_with_a_gap(monkeypatch):
    monkeypatch.setattr(camera, "STALL_S", 0.1)
    device = HangingDevice()
    with CameraSource(device, "front") as source:
        first = source.read(60)
        read_until(source, lambda frames: source.state == "lost")
        device.goes_on.set()
        assert source.read(60).frame_id >= first.frame_id + 2
        assert source.state == "up"


class Clockless:
    """A device whose clock steps back once."""

    name, fps, size = "clockless", 30.0, (8, 8)

    def __init__(self):
        self.times = [100, 200, 150, 300]

    def connect(self):
        pass

    def grab(self):
        if not self.times:
            raise EndOfSource("done")
        return Grabbed(np.zeros((8, 8, 3), np.uint8), self.times.pop(0))

    def release(self):
        pass


def test_capture_times_rise_strictly_even_if_the_driver_s_do_not():
    with CameraSource(Clockless()) as source:
        frames = read_until(source, lambda frames: False)
    assert [frame.capture_ns for frame in frames] == [100, 200, 201, 300]


class Counted:
    """A device that gives images of these times (ms), its own ones unless `timed` is False."""

    name, fps, size = "timed", None, (8, 8)

    def __init__(self, times, timed=True):
        self.times, self.timed = list(times), timed

    def connect(self):
        pass

    def grab(self):
        if not self.times:
            raise EndOfSource("done")
        image = np.full((8, 8, 3), self.times[0] % 251, np.uint8)
        return Grabbed(image, self.times.pop(0) * 10**6, timed=self.timed)

    def release(self):
        pass


@pytest.mark.parametrize("timed", [True, False])
def test_images_that_a_camera_lost_show_in_its_own_times(timed):
    times = [*range(1000, 1990, 33), *range(2320, 3000, 33)]  # 10 are missing
    with CameraSource(Counted(times, timed)) as source:
        frames = read_until(source, lambda frames: False)
    for frame in frames:
        at = frame.capture_ns // 10**6
        assert frame.frame_id == ((at - 1000) // 33 if timed else times.index(at))
    assert source.counts["missed"] == 10 * timed


def serve_jpeg(on, port):
    """A network camera of the kind that many dashboards have: JPEG images in one HTTP answer, while it is `on`."""

    def show():
        drive = SyntheticDrive(48, 64, seed=4)
        for n in itertools.takewhile(lambda _: on.is_set(), range(2000)):
            jpeg = cv2.imencode(".jpg", drive.frame(n)[..., ::-1])[1].tobytes()
            yield b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n" % (len(jpeg), jpeg)
            time.sleep(0.01)

    on.set()
    headers = {"Content-Type": "multipart/x-mixed-replace; boundary=frame"}
    return Server(lambda *_: (200, headers, show()), port=port)


def test_a_network_camera_that_is_switched_off_and_on_comes_back(caplog):
    caplog.set_level(logging.INFO, "streamtok.io")
    on = threading.Event()
    with keep_port() as port, ExitStack() as stack:
        with serve_jpeg(on, port):
            device = NetworkCamera(f"http://user:secret@127.0.0.1:{port}/")
            source = stack.enter_context(CameraSource(device, backoff=Backoff(0.05, 0.1)))
            before = time.monotonic_ns()
            first = read_until(source, lambda frames: len(frames) >= 5)
            assert first[0].image.shape == (48, 64, 3)
            assert abs(first[0].image.astype(int) - SyntheticDrive(48, 64, seed=4).frame(0)).mean() < 12
            assert all(abs(frame.capture_ns - before) < 60e9 for frame in first)
            on.clear()
        read_until(source, lambda frames: source.state == "lost")
        assert source.state == "lost"
        with serve_jpeg(on, port):
            after = read_until(source, lambda frames: source.state == "up" and len(frames) >= 5)
            on.clear()
    assert source.counts["reconnects"] >= 1
    assert len(after) >= 5
    ids = [frame.frame_id for frame in first + after]
    assert np.all(np.diff(ids) > 0)
    assert "event=lost" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("name", ["v4l/by-path/platform-camera0-video-index0", "v4l/by-id/usb-c-video-index0", "front"])
def test_every_path_in_dev_is_a_camera(name):
    source = open_source(f"/dev/{name}?size=48x64&fps=25")
    assert (source.live, source.device.target, source.device.size) == (True, f"/dev/{name}", (48, 64))
    with pytest.raises(FileNotFoundError, match=f"camera /dev/{name}: no such device"):
        source.open()


def test_a_file_in_shared_memory_is_no_camera():
    with tempfile.NamedTemporaryFile(dir="/dev/shm", suffix=".mp4") as file:
        assert not open_source(file.name).live


def test_devices_that_are_not_there_say_so_at_once():
    with pytest.raises(OSError, match="no such device"):
        open_source("/dev/video97").open()
    with keep_port() as port, pytest.raises(OSError, match="nothing listens"):
        open_source(f"rtsp://127.0.0.1:{port}/live").open()
    if shutil.which(LAUNCH) is None:
        with pytest.raises(OSError, match="there is no gst-launch"):
            open_source("gst:videotestsrc ! appsink").open()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("/dev/video0?format=MJPEG", "four letters"),
        ("/dev/video0?size=big", "HEIGHTxWIDTH"),
        ("/dev/video0?rate=5", "size, fps, format"),
        ("camera:synthetic:#lost=5-2", "START-STOP"),
        ("camera:synthetic:#gone=1-2", "lost, frozen, loop"),
        ("camera:zmq:tcp://127.0.0.1:5", "live already"),
    ],
)
def test_wrong_specs_say_what_is_allowed(spec, words):
    with pytest.raises(ValueError, match=words):
        open_source(spec)


@settings(max_examples=50)
@given(first=st.floats(0.01, 2), most=st.floats(2, 60))
def test_waiting_doubles_up_to_the_cap(first, most):
    backoff = Backoff(first, most)
    waits = [backoff.next() for _ in range(40)]
    assert waits[0] == first
    assert all(b == min(2 * a, most) for a, b in itertools.pairwise(waits))
    backoff.reset()
    assert backoff.next() == first


@settings(max_examples=50)
@given(outage=st.floats(0.01, 600), trying=st.floats(0, 3))
def test_waiting_never_makes_an_outage_twice_as_long(outage, trying):
    backoff, now = Backoff(), 0.0
    while now < outage:
        now += backoff.next(now) + trying
    assert now - trying <= max(1.5 * outage, backoff.first) + trying


def test_freeze_watch_counts_by_time_and_not_by_images():
    watch = FreezeWatch(1.0)
    still, other = np.zeros((16, 16, 3), np.uint8), np.ones((16, 16, 3), np.uint8)
    assert [watch.see(still, round(t * 1e9)) for t in (0, 0.9, 1.0, 5.0)] == [False, False, True, False]
    assert watch.frozen
    assert not watch.see(other, 6_000_000_000)
    assert not watch.frozen
    with pytest.raises(ValueError, match="more than 0"):
        FreezeWatch(0)
