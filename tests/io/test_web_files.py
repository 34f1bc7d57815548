"""Videos on web servers of this process are read as files are: all of their pictures, at their times, to the end."""

import contextlib
import itertools
import re
import time

import cv2
import numpy as np
import pytest

from streamtok.io.base import EndOfSource
from streamtok.io.cameras.network_camera import NetworkCamera
from streamtok.io.cameras.web import ask_web
from streamtok.io.source import open_source
from tests.kit.videos import ORDERED, PLAIN, noisy, number_of, numbered, write_video
from tests.kit.web import Server, part_of

COUNT = 30
TIMES = range(0, COUNT * 512, 512)


def read(url):
    with open_source(url) as source:
        frames = list(source)
    times = [frame.capture_ns - frames[0].capture_ns for frame in frames]
    return source, [number_of(frame.image) for frame in frames], times


def check(url):
    source, numbers, times = read(url)
    assert not source.live
    assert numbers == list(range(COUNT))
    assert times == [n * 40_000_000 for n in range(COUNT)]
    assert source.counts["damaged"] == 0


@pytest.mark.parametrize("suffix", ["mp4", "ts", "mkv"])
def test_a_video_on_a_server_that_sends_parts_is_read_whole(tmp_path, suffix):
    data = write_video(tmp_path / f"a.{suffix}", noisy(COUNT, 128, 192), TIMES, crf="4", **ORDERED).read_bytes()
    with Server(lambda path, headers: part_of(data, headers)) as web:
        for _ in range(5):  # what is lost is lost by chance
            check(f"{web.base}/a.{suffix}")


def test_a_server_that_says_text_or_nothing_of_a_video_sends_a_file(tmp_path):
    data = write_video(tmp_path / "a.mp4", noisy(COUNT), TIMES, **PLAIN).read_bytes()
    for kind in ({"Content-Type": "text/plain"}, {"Content-Type": "application/octet-stream"}, {}):
        answer = 200, {"Content-Length": str(len(data)), **kind}, data
        with Server(lambda path, headers, answer=answer: answer) as web:
            check(f"{web.base}/a.mp4")


def test_a_playlist_is_a_file_if_those_that_it_lists_end(tmp_path):
    parts = {"hls_time": "0.4", "hls_list_size": "0"}
    write_video(tmp_path / "a.m3u8", noisy(COUNT), container_options=parts, **PLAIN)
    (tmp_path / "all.m3u8").write_text("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1000000\na.m3u8\n")
    kinds = {".m3u8": "application/vnd.apple.mpegurl", ".ts": "video/mp2t"}

    def answer(path, headers):
        file = tmp_path / path.removeprefix("/")
        return part_of(file.read_bytes(), headers, kinds[file.suffix])

    with Server(answer) as web:
        check(f"{web.base}/a.m3u8")
        check(f"{web.base}/all.m3u8")


@pytest.mark.parametrize("names", ["{}", "{}.jpg", "{}.ts?id=1"])
def test_pieces_of_a_playlist_have_any_name_and_may_be_encrypted(tmp_path, names):
    (tmp_path / "key.info").write_text(f"key\n{tmp_path}/key.ts\n")
    (tmp_path / "key.ts").write_bytes(bytes(range(16)))
    pieces = {"hls_time": "0.4", "hls_list_size": "0", "hls_key_info_file": str(tmp_path / "key.info")}
    write_video(tmp_path / "a.m3u8", noisy(COUNT), container_options=pieces, **PLAIN)
    playlist = re.sub(r"(a\d+)\.ts", lambda found: names.format(found[1]), (tmp_path / "a.m3u8").read_text())

    def answer(path, headers):
        if path == "/a.m3u8":
            return part_of(playlist.encode(), headers, "application/x-mpegurl")
        file = tmp_path / f"{path[1:].partition('.')[0]}.ts"
        there = file.exists()
        return part_of(file.read_bytes(), headers, "video/mp2t") if there else (404, {"Content-Length": "0"}, b"")

    with Server(answer) as web:
        check(f"{web.base}/a.m3u8")
        (tmp_path / "key.ts").unlink()
        with pytest.raises(OSError, match="it is no playlist, or its first piece cannot be read"):
            open_source(f"{web.base}/a.m3u8").open()


def test_short_pieces_of_a_playlist_may_each_have_their_own_clock(tmp_path):
    images, lines = noisy(40), ["#EXTM3U", "#EXT-X-TARGETDURATION:1"]
    for first in range(0, 40, 10):
        write_video(tmp_path / f"{first}.ts", images[first : first + 10], TIMES[:10], **PLAIN)
        lines += ["#EXT-X-DISCONTINUITY", "#EXTINF:0.4,", f"{first}.ts"]
    (tmp_path / "a.m3u8").write_text("\n".join([*lines, "#EXT-X-ENDLIST", ""]))
    source, numbers, times = read(str(tmp_path / "a.m3u8"))
    assert set(numbers) >= {n for n in range(40) if n % 10 < 8}  # two may be lost where packets count anew
    assert len(numbers) + source.counts["damaged"] == 40
    assert times == sorted(set(times))


def test_pieces_of_a_playlist_with_b_frames_and_without_go_on_on_one_clock(tmp_path):
    images, lines = noisy(40), ["#EXTM3U", "#EXT-X-TARGETDURATION:1"]
    for first, options in zip(range(0, 40, 10), [PLAIN, ORDERED] * 2, strict=True):
        ticks = [512 * n + 25600 for n in range(first, first + 10)]
        write_video(tmp_path / f"{first}.ts", images[first : first + 10], ticks, **options)
        lines += ["#EXTINF:0.4,", f"{first}.ts"]
    (tmp_path / "a.m3u8").write_text("\n".join([*lines, "#EXT-X-ENDLIST", ""]))
    _, numbers, times = read(str(tmp_path / "a.m3u8"))
    assert set(numbers) >= {n for n in range(40) if n % 10 < 7}  # some may be lost where packets count anew
    assert times == [n * 40_000_000 for n in numbers]


@pytest.mark.parametrize("suffix", ["ts", "mp4"])
def test_a_stream_that_comes_faster_than_in_real_time_and_ends_gives_all_of_its_pictures(tmp_path, suffix):
    """As web servers send files whose length they do not say."""
    fragments = {"movflags": "frag_keyframe+empty_moov"} if suffix == "mp4" else {}
    path = write_video(tmp_path / f"a.{suffix}", noisy(COUNT), TIMES, container_options=fragments, **ORDERED)
    with Server(lambda _, headers: (200, {"Content-Type": "video/mp4"}, path.read_bytes())) as web:
        device = NetworkCamera(f"{web.base}/a")
        device.connect()
        grabbed = []
        with contextlib.suppress(EndOfSource):
            while (one := device.grab()) is not None:
                grabbed.append(one)
        device.release()
    assert [number_of(one.image) for one in grabbed] == list(range(COUNT))
    assert np.allclose(np.diff([one.capture_ns for one in grabbed]), 40_000_000, atol=1000)


def test_a_playlist_that_has_no_end_is_played_and_nothing_of_it_is_left_out(tmp_path):
    options = {"hls_time": "0.4", "hls_list_size": "0", "hls_flags": "omit_endlist"}
    write_video(tmp_path / "a.m3u8", noisy(COUNT), TIMES, container_options=options, **PLAIN)

    def answer(path, headers):
        file = tmp_path / path.removeprefix("/")
        return part_of(file.read_bytes(), headers, {".ts": "video/mp2t"}.get(file.suffix, "application/x-mpegurl"))

    with Server(answer) as web, open_source(f"{web.base}/a.m3u8", max_frames=20) as source:
        frames = list(source)
        assert source.counts["dropped"] == source.counts["missed"] == 0
    numbers = [number_of(frame.image) for frame in frames]
    assert numbers == list(range(numbers[0], numbers[0] + 20))
    assert np.allclose(np.diff([frame.capture_ns for frame in frames]), 40_000_000, atol=100_000)


@pytest.mark.parametrize(("pause", "count"), [(0.02, 40), (0.4, 5)])
def test_pictures_that_come_as_one_without_end_are_a_camera(monkeypatch, pause, count):
    monkeypatch.setattr("streamtok.io.cameras.web.OPEN_S", 0.5)
    pictures = [cv2.imencode(".jpg", image[..., ::-1])[1].tobytes() for image in numbered(COUNT)]

    def send():
        for picture in itertools.cycle(pictures):
            time.sleep(pause)
            yield picture

    with (
        Server(lambda path, headers: (200, {"Content-Type": "image/jpeg"}, send())) as web,
        open_source(f"{web.base}/live") as source,
    ):
        frames = [source.read(60) for _ in range(count)]
        assert isinstance(source.device, NetworkCamera)
    numbers = [number_of(frame.image) for frame in frames]
    assert all((b - a) % COUNT == 1 for a, b in itertools.pairwise(numbers))


def test_a_stream_that_comes_byte_after_byte_does_not_hold_up_the_question_what_it_is(monkeypatch):
    monkeypatch.setattr("streamtok.io.cameras.web.OPEN_S", 0.5)
    sent = []

    def send():
        for byte in itertools.cycle((b"\r", b"\n")):
            time.sleep(0.05)
            sent.append(byte)
            yield byte

    with Server(lambda path, headers: (200, {"Content-Type": "multipart/x-mixed-replace"}, send())) as web:
        assert ask_web(f"{web.base}/live") in ("pictures", "camera")
    assert len(sent) < 100


def test_a_playlist_of_playlists_that_lists_none_is_no_file():
    answer = 200, {"Content-Type": "application/vnd.apple.mpegurl"}, b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n"
    with Server(lambda path, headers: answer) as web:
        assert ask_web(f"{web.base}/a.m3u8") == "camera"
