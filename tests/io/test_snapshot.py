"""Cameras that give one picture per request."""

import base64

import cv2
import numpy as np
import pytest

from streamtok.io.source import open_source
from tests.kit.videos import number_of, numbered
from tests.kit.web import Server

PICTURES = numbered(200)


@pytest.fixture
def address():
    """A camera with a new picture at every request: /snapshot.jpg is open, /cgi asks for u:p, /cut is damaged."""
    asked = iter(range(200))

    def answer(path, headers):
        if path.startswith("/cgi") and headers["Authorization"] != "Basic " + base64.b64encode(b"u:p").decode():
            return 401, {"WWW-Authenticate": 'Basic realm="camera"'}, b""
        if path == "/gone.jpg":
            return 404, {}, b""
        number = next(asked)
        data = cv2.imencode(".jpg", PICTURES[number])[1].tobytes()
        kept = len(data) // 2 if path == "/cut.jpg" and number == 2 else len(data)
        return 200, {"Content-Type": "text/html" if path == "/page.jpg" else "image/jpeg"}, data[:kept]

    with Server(answer) as server:
        yield server.base.removeprefix("http://")


@pytest.mark.parametrize(
    "spec",
    [
        "http://ADDRESS/snapshot.jpg#fps=50",
        "snapshot:http://u:p@ADDRESS/cgi?channel=1#fps=50",
        "http://u:p@ADDRESS/cgi?channel=1#fps=50",
    ],
)
def test_a_picture_is_asked_for_at_the_rate(spec, address):
    with open_source(spec.replace("ADDRESS", address), max_frames=5) as source:
        frames = [source.read(60) for _ in range(5)]
    assert (source.size, source.fps, source.live) == ((64, 96), 50, True)
    assert all(np.diff([number_of(frame.image) for frame in frames]) >= 1)
    assert all(np.diff([frame.capture_ns for frame in frames]) > 0)


def test_a_damaged_picture_is_left_out(address):
    with open_source(f"http://{address}/cut.jpg#fps=50") as source:
        numbers = [number_of(source.read(60).image) for _ in range(3)]
    assert numbers[0] == 1
    assert 2 not in numbers
    assert source.counts["damaged"] == 1


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("snapshot:http://u:wrong@ADDRESS/cgi", "user name or password.*401"),
        ("http://ADDRESS/gone.jpg", "nothing of that name .404"),
        ("http://ADDRESS/page.jpg", "page .text/html., not a picture"),
        ("http://127.0.0.1:9/a.jpg", "^http://127.0.0.1:9/a.jpg cannot be opened: nothing listens"),
        ("http://no-such-host.invalid/a.jpg", "host 'no-such-host.invalid' is not known"),
    ],
)
def test_what_is_wrong_is_said_without_the_password(spec, words, address):
    with pytest.raises(OSError, match=words) as caught:
        open_source(spec.replace("ADDRESS", address)).open()
    assert "wrong@" not in str(caught.value)
