"""Network cameras, for real: an RTSP server and web servers of this process, with what goes wrong with them."""

import contextlib
import functools
import heapq
import itertools
import logging
import random
import socket
import threading
import time

import cv2
import numpy as np
import pytest

from streamtok.ingest.core import IngestCore
from streamtok.ingest.lane import StreamOptions
from streamtok.io.base import EndOfSource
from streamtok.io.cameras.camera import Backoff, CameraSource
from streamtok.io.cameras.network_camera import NetworkCamera
from streamtok.io.cameras.stream_clock import StreamClock
from streamtok.io.source import open_source
from streamtok.redaction import clean_text
from tests.kit.models import VIDEO, build
from tests.kit.ports import keep_port
from tests.kit.rtmp import RtmpServer
from tests.kit.rtsp import NAMES, SDP, Camera, right_tick, stamped, to_rtp
from tests.kit.threads import beside
from tests.kit.videos import PLAIN, noisy, number_of, write_video
from tests.kit.web import Server

COUNT = 60
X265 = {"x265-params": "keyint=10:scenecut=0:bframes=0:log-level=none:pools=1:repeat-headers=1", "tune": "zerolatency"}


@pytest.fixture(scope="module")
def clips():
    images = noisy(COUNT)
    return {"libx264": to_rtp(images, **PLAIN, sc_threshold="0"), "libx265": to_rtp(images, "libx265", **X265)}


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """On a busy machine a thread takes longer to end than a camera is waited for, and pictures longer to be read."""
    monkeypatch.setattr("streamtok.io.cameras.camera.JOIN_S", 60)
    monkeypatch.setattr("streamtok.io.capture.QUEUE", 10_000)


def read(url, count, limit=60.0):
    """`count` frames of a network camera, and its source, closed."""
    source = CameraSource(NetworkCamera(url), backoff=Backoff(0.05, 0.2))
    with source:
        return take(source, count, limit), source


def take(source, count, limit=60.0, done=lambda: False):
    frames, deadline = [], time.monotonic() + limit
    while len(frames) < count and time.monotonic() < deadline and not done():
        with contextlib.suppress(EndOfSource):
            frame = source.read(0.05)
            frames += [frame] if frame is not None else []
    return frames


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_an_rtsp_camera_gives_every_picture_at_its_own_time(clips, codec):
    with Camera(clips[codec], codec=codec, burst=10) as camera:
        device = NetworkCamera(camera.url())
        device.connect()
        grabbed = [device.grab() for _ in range(40)]
        device.release()
    assert device.size == (64, 96)
    numbers = [number_of(one.image) for one in grabbed]
    assert numbers == [(numbers[0] + n) % COUNT for n in range(40)]
    steps = np.diff([one.capture_ns for one in grabbed]) / 1e6
    assert abs(np.median(steps) - 20) < 2
    assert abs(np.median(steps[:8]) - 20) < 2  # those of the burst, which came at once
    assert steps[0] > 0  # the first one has no time, and is not taken for newer than those that came with it


def test_an_rtsp_camera_that_knows_udp_alone_is_read(clips):
    with Camera(clips["libx264"], udp=True) as camera:
        device = NetworkCamera(camera.url())
        device.connect()
        numbers = [number_of(device.grab().image) for _ in range(20)]
        device.release()
    assert numbers == [(numbers[0] + n) % COUNT for n in range(20)]


def test_pictures_of_a_camera_whose_times_come_twice_are_not_missed(clips):
    with Camera(clips["libx264"], tick=lambda number, fps: right_tick(number // 2 * 2, fps)) as camera:
        frames, source = read(camera.url(), 40)
    assert all(after.frame_id == before.frame_id + 1 for before, after in itertools.pairwise(frames))
    assert source.counts["missed"] == 0


def test_pictures_that_a_network_held_up_are_not_missed_where_the_camera_s_clock_runs_twice_as_fast(clips):
    def hold_up(picture, part):
        time.sleep(0.5 * ((picture, part) == (45, 0)))
        return False

    with Camera(clips["libx264"], fps=100, lose=hold_up, tick=lambda n, fps: right_tick(2 * n, fps)) as camera:
        frames, source = read(camera.url(), 120)
    assert [frame.frame_id for frame in frames] == list(range(120))
    assert source.counts["missed"] == 0


@pytest.mark.parametrize("tick", [lambda number, fps: 5, lambda number, fps: number * 1000 // fps])
def test_times_of_a_camera_that_stand_still_are_those_of_arrival(clips, tick):
    with Camera(clips["libx264"], tick=tick) as camera:
        device = NetworkCamera(camera.url())
        device.connect()
        grabbed = [device.grab() for _ in range(20)]
        device.release()
    assert not any(one.timed for one in grabbed[2:])  # FFmpeg may give the first one no time


def on_this_clock(packets):
    """Steps in ms between local times of packets, given as (time of the stream, time of arrival) in ms."""
    clock, local = StreamClock(), []
    for stream_ms, arrival_ms in packets:
        clock.see(stream_ms * 10**6, arrival_ms * 10**6)
        local.append(clock.to_local(stream_ms * 10**6) / 1e6)
    return np.diff(local)


def test_what_a_network_held_up_keeps_its_times_and_a_clock_that_was_set_is_measured_anew():
    held_up = [(40 * n, max(50_000 + 40 * n, 57_000 * (100 < n <= 250))) for n in range(400)]  # for 3 s, by TCP
    assert np.allclose(on_this_clock(held_up), 40, atol=1)
    for by in (-3_600_000, -1_000, 1_500, 3_600_000):
        was_set = [(4_000_000 + 40 * n + by * (n >= 100), 50_000 + 40 * n + n % 3) for n in range(200)]
        assert np.allclose(on_this_clock(was_set), 40, atol=3)
    stays_late = [(40 * n, 50_000 + 40 * n + 5_000 * (n >= 100)) for n in range(1000)]  # set while nothing came
    assert np.isclose(on_this_clock(stays_late).sum(), 999 * 40 + 5_000, atol=2)


def played(pictures, now_ns=50_000 * 10**9):
    """How late each picture of a playlist is shown, and its local time, both less those of the stream, in ms. A picture
    is (time in the stream, time to decode it), in ms; the sleep before it is shown lasts 0.06 ms too long."""
    clock, shown = StreamClock(), []
    for stream_ms, decoding_ms in pictures:
        now_ns += decoding_ms * 10**6
        due_ns = clock.play(stream_ms * 10**6, now_ns)
        now_ns = max(now_ns, due_ns + 60_000 * (due_ns > now_ns))
        shown.append((now_ns / 1e6 - stream_ms, clock.to_local(stream_ms * 10**6) / 1e6 - stream_ms))
    return np.array(shown)


def test_a_playlist_is_played_no_slower_than_it_was_taken():
    hours = played((40 * n, 2) for n in range(25 * 7200))
    assert np.ptp(hours, axis=0).max() < 0.1
    late = played((40 * n, 800 if n == 500 else 2) for n in range(1000))
    assert np.isclose(late[500, 0] - late[0, 0], 760, atol=1)
    assert np.abs(late[530:, 0] - late[0, 0]).max() < 0.1  # what it was late is caught up
    assert np.ptp(late[:, 1]) < 0.1  # nothing seems to be missing
    for jump in (-3_600_000, -2_000, -400, 3_600_000):
        jumps = played((10_000_000 + 40 * n + jump * (n >= 500), 2) for n in range(1000))
        assert np.ptp(jumps[500:] + jump - jumps[0]) < 50


def test_the_first_picture_of_a_playlist_is_shown_at_once_whatever_its_time():
    assert played([(100_000, 0)], now_ns=97 * 10**9)[0, 0] == -3000


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_lost_rtp_packets_cost_what_they_touched_and_are_counted(clips, codec):
    lost = {(33, 0), (57, 1), (58, 0)} if codec == "libx264" else {(33, 0), (50, 4), (71, 0)}
    with Camera(clips[codec], codec=codec) as camera:
        whole, _ = read(camera.url(), COUNT + 20)
    right = {number_of(frame.image): frame.image for frame in whole}
    with Camera(clips[codec], codec=codec, lose=lambda picture, part: (picture, part) in lost) as camera:
        frames, source = read(camera.url(), COUNT + 20)
    for frame in frames:
        assert np.array_equal(frame.image, right[number_of(frame.image)])
    numbers = [number_of(frame.image) for frame in frames]
    assert 30 in numbers
    assert not {33, 34, 35, 36, 37, 38, 39} & set(numbers[: numbers.index(40)])
    assert source.counts["damaged"] >= 6
    assert np.all(np.diff([frame.frame_id for frame in frames]) >= 1)


def test_pictures_that_repeat_themselves_are_whole():
    """Their data repeat themselves, too, which is no sign that a part came twice."""
    y, x = np.mgrid[:480, :640]
    bars, board = y // 60 * 36, (x // 16 + y // 16) % 2 * 255
    images = np.stack([np.repeat(one[..., None], 3, -1).astype(np.uint8) for one in (bars, board)])
    with Camera(to_rtp(images, profile="baseline", g="1", tune="zerolatency")) as camera:
        frames, source = read(camera.url(), 10)
    assert len(frames) == 10
    assert all(np.abs(images - frame.image.astype(int)).mean((1, 2, 3)).min() < 4 for frame in frames)
    assert source.counts["damaged"] == 0


def test_rtp_packets_that_come_again_after_others_cost_nothing(clips):
    big = [n for n, parts in enumerate(clips["libx264"]) if len(parts) > 2 and n > 20]
    again = {(picture, 1): place % 4 + 1 for place, picture in enumerate(big[:8])}
    with Camera(clips["libx264"], udp=True) as camera:
        right = {number_of(frame.image): frame.image for frame in read(camera.url(), COUNT + 20)[0]}
    with Camera(clips["libx264"], udp=True, again=again) as camera:
        frames, source = read(camera.url(), COUNT)
    assert len(again) == 8
    assert all(np.array_equal(frame.image, right[number_of(frame.image)]) for frame in frames)
    assert source.counts["damaged"] == 0


def hold_back(packets, most, seed):
    """RTP packets of which some come up to `most` others later than they should."""
    draw, waiting = random.Random(seed), []
    for count, (picture, _, data) in enumerate(packets):
        late = draw.random() < 0.03 and picture > 5
        heapq.heappush(waiting, (count + late * (draw.randint(1, most) + 0.5), picture, data))
        while waiting and waiting[0][0] <= count:
            yield heapq.heappop(waiting)[1:]


def find_rtp_port():
    """An even port that is free, and so is the next, for RTCP. FFmpeg takes none of these for RTSP by UDP elsewhere."""
    for port in random.sample(range(65_002, 65_534, 2), 200):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for number in (port, port + 1):
                taken = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                taken.bind(("0.0.0.0", number))
            return port
    raise OSError("no two free ports")


def read_udp(folder, codec, clip, most=1, seed=0):
    """Frames of a clip that comes by UDP, at 100 a second, as an SDP file says; and their source. See `hold_back`."""
    port = find_rtp_port()
    name, more = NAMES[codec]
    text = SDP.replace("96", str(clip[0][0][1] & 127)).replace("video 0", f"video {port}")
    (folder / "cam.sdp").write_text(text.format(name=name, more=more))
    stop = threading.Event()

    def send():
        last = -1
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for picture, data in hold_back(stamped(clip, 25), most, seed):
                if picture > last and stop.wait(0.01):
                    return
                last = max(last, picture)
                sender.sendto(data, ("127.0.0.1", port))

    with beside(send), open_source(str(folder / "cam.sdp")) as source:
        assert isinstance(source, CameraSource)
        frames = take(source, 2 * COUNT)
        stop.set()
    return frames, source


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mjpeg"])
def test_rtp_packets_over_udp_that_are_lost_or_late_cost_what_they_touched(clips, tmp_path, codec):
    clip = clips.get(codec) or to_rtp(noisy(COUNT), codec, huffman="default", threads="1")
    frames, _ = read_udp(tmp_path, codec, clip)
    right = {number_of(frame.image): frame.image for frame in frames}
    for most in (3, 30, 10**9):  # within the jitter buffer, beyond it, never
        frames, source = read_udp(tmp_path, codec, clip, most, seed=most)
        assert len(frames) == 2 * COUNT
        assert all(np.array_equal(frame.image, right[number_of(frame.image)]) for frame in frames), most
        assert (source.counts["damaged"] > 0) == (most > 3)


def test_a_port_that_another_program_reads_is_told(tmp_path):
    port = find_rtp_port()
    (tmp_path / "cam.sdp").write_text(SDP.replace("video 0", f"video {port}").format(name="H264", more=""))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", port))
        for target in (f"udp://127.0.0.1:{port}", f"rtp://127.0.0.1:{port}", str(tmp_path / "cam.sdp")):
            with pytest.raises(OSError, match="its port is in use here"):
                NetworkCamera(target).connect()


def test_what_is_waited_for_is_told_where_nothing_comes(tmp_path, monkeypatch):
    monkeypatch.setattr("streamtok.io.video.containers.OPEN_S", 0.5)
    port = find_rtp_port()
    (tmp_path / "cam.sdp").write_text(SDP.replace("video 0", f"video {port}").format(name="H264", more=""))
    for target in (f"udp://127.0.0.1:{port}", f"rtp://127.0.0.1:{port}", str(tmp_path / "cam.sdp")):
        with pytest.raises(OSError, match="no video came to its port"), open_source(target):
            pass


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_no_wrong_picture_comes_over_a_network_that_loses_packets(clips, codec):
    with Camera(clips[codec], codec=codec, fps=100) as camera:
        whole, _ = read(camera.url(), COUNT + 20)
    right = {number_of(frame.image): frame.image for frame in whole}
    for seed in range(20):
        draw, lost = random.Random(seed), {}
        lose = functools.partial(lambda lost, draw, *part: lost.setdefault(part, draw.random() < 0.02), lost, draw)
        with Camera(clips[codec], codec=codec, fps=100, lose=lose) as camera:
            frames, source = read(camera.url(), 3 * COUNT)
        assert all(np.array_equal(frame.image, right[number_of(frame.image)]) for frame in frames)
        assert bool(source.counts["damaged"]) == any(lost.values())


def test_a_camera_that_is_switched_off_comes_back(clips):
    with (
        keep_port() as port,
        Camera(clips["libx264"], port=port) as camera,
        CameraSource(NetworkCamera(camera.url()), backoff=Backoff(0.05, 0.2)) as source,
    ):
        before = take(source, 10)
        camera.stop()
        rest = take(source, 10**6, done=lambda: source.state == "lost")
        assert source.state == "lost"
        rest += iter(lambda: source.read(0.2), None)  # what waited to be read
        with Camera(clips["libx264"], port=port):
            after = take(source, 10)
    assert len(before) == len(after) == 10
    assert source.counts["reconnects"] == 1
    assert after[-1].frame_id - before[-1].frame_id > len(rest + after)


def test_a_camera_that_changes_its_size_starts_an_epoch(clips):
    wide = to_rtp(noisy(20, 48, 128), **PLAIN)
    core = IngestCore(build(VIDEO), {"cam0": StreamOptions(keyframe_interval=0.0, on_gap="bridge")})
    with Camera(clips["libx264"][:20], wide) as camera:
        frames, _ = read(camera.url(), 45)
    sizes = {frame.frame_id: frame.image.shape[:2] for frame in frames}
    assert set(sizes.values()) == {(64, 96), (48, 128)}
    groups = [group for frame in frames for group in core.feed(frame)]
    changes = sum(before != after for before, after in itertools.pairwise(sizes.values()))
    assert groups[-1].epoch == changes
    for group in groups:
        assert group.info.source_size == sizes[group.frame_ids[0]]


def test_each_refusal_says_what_it_is(clips):
    pages = {
        "/401": (401, {"WWW-Authenticate": 'Basic realm="x"'}, b""),
        "/403": (403, {}, b""),
        "/429": (429, {}, b""),
        "/503": (503, {}, b""),
        "/html": (200, {"Content-Type": "text/html"}, b"<html><body>Welcome to your camera</body></html>" * 200),
    }
    with (
        keep_port() as closed,
        socket.create_server(("127.0.0.1", 0)) as silent,
        Server(lambda path, headers: pages.get(path.removesuffix(".jpg"), (404, {}, b""))) as web,
        Camera(clips["libx264"], password="right") as camera,
    ):
        quiet = silent.getsockname()[1]
        of_web = {
            f"{web.base}/401": "user name or password.*: USER:PASSWORD@ goes before HOST",
            f"{web.base}/403": "this user may not see it",
            f"{web.base}/404": "there is nothing of that name",
            f"{web.base}/429": "the server refuses it",
            f"{web.base}/503": "the server refuses it",
            f"http://127.0.0.1:{closed}/": "nothing listens",
            f"http://127.0.0.1:{quiet}/": "no answer within",
            "http://camera.invalid/": "host 'camera.invalid' is not known",
        }
        told = of_web | {f"{url}.jpg": text for url, text in of_web.items()}  # a stream's and a picture's: one rule
        told |= {
            f"{web.base}/html": "no video",
            web.base.replace("http", "rtsp"): "offers no video: are the port and the path right",
            f"{web.base.replace('http', 'rtsp')}/ch01.264": "offers no video: are the port and the path right",
            f"rtsp://127.0.0.1:{closed}/": "nothing listens",
            f"rtsp://127.0.0.1:{quiet}/": "no answer within",
            "rtsp://camera.invalid/stream": "host 'camera.invalid' is not known",
            camera.url("user:wrong@"): "user name or password",
            camera.url("user:right@").replace("stream", "other"): "404",
        }
        for url, text in told.items():
            with pytest.raises(OSError, match=f"^[a-z]+://.* cannot be opened: .*{text}") as error:
                open_source(url).open()
            assert "wrong" not in str(error.value).replace("missing or wrong", "")
            assert clean_text(str(error.value)) == str(error.value)  # nothing of the advice is taken for a secret
        frames, _ = read(camera.url("user:right@"), 3)
    assert len(frames) == 3


class Refusing(Camera):
    """Refuses every request of a method."""

    def _answer(self, method, target, fields):
        return (self.refusal, "", "") if method == self.refused else super()._answer(method, target, fields)


@pytest.mark.parametrize(
    ("method", "refusal"),
    [
        ("OPTIONS", "405 Method Not Allowed"),
        ("SETUP", "461 Unsupported Transport"),
        ("PLAY", "453 Not Enough Bandwidth"),
    ],
)
def test_a_camera_that_refuses_a_request_is_said_to(clips, method, refusal):
    code, _, why = refusal.partition(" ")
    with Refusing(clips["libx264"]) as camera:
        camera.refused, camera.refusal = method, refusal
        with pytest.raises(OSError, match=rf"it refuses a request \(method {method} failed: {code} \({why}\)\)"):
            open_source(camera.url()).open()


def test_what_a_camera_says_of_a_refusal_is_told_without_secrets(clips):
    with Refusing(clips["libx264"]) as camera:
        camera.refused, camera.refusal = "OPTIONS", f"453 no {camera.url('user:hunter2@')}"
        with pytest.raises(OSError, match=r"method OPTIONS failed: 453") as refused:
            open_source(camera.url("user:hunter2@")).open()
    assert "hunter2" not in str(refused.value)


def test_a_camera_that_speaks_rtmp_is_read(tmp_path):
    data = write_video(tmp_path / "a.flv", noisy(COUNT), **PLAIN).read_bytes()
    with RtmpServer(data) as server, open_source(server.url) as source:
        frames = take(source, 30)
    numbers = [number_of(frame.image) for frame in frames]
    assert numbers == list(range(numbers[0], numbers[0] + 30))
    assert np.allclose(np.diff([frame.capture_ns for frame in frames]), 40_000_000, atol=1_000_000)


def test_a_protocol_that_this_ffmpeg_lacks_is_named_with_what_to_do():
    with pytest.raises(OSError, match=r"does not know that protocol.* an ffmpeg that does"):
        NetworkCamera("unknown://127.0.0.1:9").connect()


def test_a_password_is_told_by_its_digest_where_the_camera_asks_for_that(clips):
    with Camera(clips["libx264"], password="p@ss", digest=True) as camera:
        frames, _ = read(camera.url("user:p%40ss@"), 3)
        assert len(frames) == 3
        with pytest.raises(OSError, match="user name or password"):
            open_source(camera.url("user:wrong@")).open()


def test_a_truncated_jpeg_of_a_camera_is_left_out_and_counted(caplog):
    caplog.set_level(logging.INFO, "streamtok.io")
    pictures = [cv2.imencode(".jpg", image[..., ::-1])[1].tobytes() for image in noisy(20)]
    pictures = [data[: len(data) // 2] if n % 5 == 3 else data for n, data in enumerate(pictures)]
    head = b"--f\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
    body = b"".join(head % len(data) + data + b"\r\n" for data in pictures) + b"--f\r\n"
    kind = {"Content-Type": "multipart/x-mixed-replace; boundary=f"}
    with Server(lambda path, headers: (200, kind, body)) as web:
        device = NetworkCamera(f"{web.base}/stream")
        device.connect()
        grabbed = []
        while (one := device.grab()) is not None:
            grabbed.append(one)
        device.release()
    whole = [n for n in range(20) if n % 5 != 3]
    assert [number_of(one.image) for one in grabbed] == whole[: len(grabbed)]
    assert len(grabbed) >= len(whole) - 1
    assert sum(one.damaged for one in grabbed) == 4
    assert caplog.text.count("event=damaged") == 1


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Type: image/jpg\r\nContent-Length: %d",
        b"content-type: image/jpeg; charset=x\r\nContent-Length: %d",
        b"X-Timestamp: %d",
        b"Content-Type: image/jpeg\r\nX-Size: %d\r\nContent-Length: 50",
    ],
    ids=["jpg", "parameters", "no kind", "too short"],
)
def test_parts_of_a_motion_jpeg_are_found_whatever_their_heads_say(head):
    files = [cv2.imencode(".jpg", image[..., ::-1])[1].tobytes() for image in noisy(20)]
    body = b"".join(b"--f\r\n" + head % len(data) + b"\r\n\r\n" + data + b"\r\n" for data in files)
    kind = {"Content-Type": "multipart/x-mixed-replace; boundary=f"}
    with Server(lambda path, headers: (200, kind, body)) as web:
        device = NetworkCamera(f"{web.base}/stream")
        for _ in range(2):  # from the second connection on, heads that were wrong are not believed
            device.connect()
            grabbed = list(iter(device.grab, None))
            device.release()
    assert [(number_of(one.image), one.damaged) for one in grabbed] == [(n, 0) for n in range(20)]


MULTIPART = {"Content-Type": "multipart/x-mixed-replace; boundary=f"}


@pytest.mark.parametrize(("before", "end"), [(b"", b"\n"), (b"a preamble\r\n\r\n", b"\r\n")])
def test_parts_of_a_motion_jpeg_may_have_unix_lines_or_text_before_them(before, end):
    files = [cv2.imencode(".jpg", image[..., ::-1])[1].tobytes() for image in noisy(20)]
    body = before + b"".join(b"--f%bContent-Type: image/jpeg%b%b" % (end, 2 * end, data + end) for data in files)
    with Server(lambda path, headers: (200, MULTIPART, body)) as web:
        device = open_source(f"{web.base}/stream").device
        device.connect()
        grabbed = list(iter(device.grab, None))
        device.release()
    assert [(number_of(one.image), one.damaged) for one in grabbed] == [(n, 0) for n in range(20)]


def test_a_picture_in_which_the_connection_breaks_is_counted_as_damaged():
    files = [cv2.imencode(".jpg", image[..., ::-1])[1].tobytes() for image in noisy(8)]
    parts = [b"--f\r\nContent-Length: %d\r\nContent-Type: image/jpeg\r\n\r\n%b" % (len(data), data) for data in files]
    body = b"".join(parts[:-1]) + parts[-1][: len(parts[-1]) // 2]
    with Server(lambda path, headers: (200, MULTIPART, body)) as web:
        device = NetworkCamera(f"{web.base}/stream")
        found = []
        for _ in range(2):
            device.connect()
            found += [one.damaged for one in iter(device.grab, None)]
        device.release()
    assert found == [0] * 7 + [1] + [0] * 6


def test_a_camera_that_sends_no_picture_is_asked_less_and_less():
    asked = []

    def answer(path, headers):
        asked.append(time.monotonic())
        return 200, {"Content-Type": "multipart/x-mixed-replace; boundary=f"}, b"--f\r\n\r\nno picture\r\n" * 1000

    with Server(answer) as web, CameraSource(NetworkCamera(f"{web.base}/stream")) as source:
        until = time.monotonic() + 4
        while time.monotonic() < until:
            assert source.read(0.2) is None
    assert len(asked) < 12


def test_a_camera_of_which_all_is_damaged_can_be_closed(caplog):
    data = cv2.imencode(".jpg", noisy(1)[0])[1].tobytes()
    data = data[: len(data) // 2]
    parts = b"--f\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n" % (len(data), data)
    kind = {"Content-Type": "multipart/x-mixed-replace; boundary=f"}
    with Server(lambda path, headers: (200, kind, itertools.repeat(parts))) as web:
        with CameraSource(NetworkCamera(f"{web.base}/stream")) as source:
            assert source.read(0.5) is None
        assert not source.capture.is_alive()
    assert "event=device_hangs" not in caplog.text
