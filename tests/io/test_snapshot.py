"""Cameras that give one picture per request."""

import base64
import http.server
import threading

import cv2
import numpy as np
import pytest

from streamtok.io.source import open_source
from tests.kit.videos import number_of, numbered

PICTURES = numbered(200)


@pytest.fixture
def address():
    """A camera with a new picture at every request: /snapshot.jpg is open, /cgi asks for u:p, /cut is damaged."""
    asked = iter(range(200))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = "Basic " + base64.b64encode(b"u:p").decode()
            if self.path.startswith("/cgi") and self.headers["Authorization"] != wanted:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="camera"')
                self.end_headers()
                return
            if self.path == "/gone.jpg":
                self.send_error(404)
                return
            number = next(asked)
            data = cv2.imencode(".jpg", PICTURES[number])[1].tobytes()
            if self.path == "/cut.jpg" and number == 2:
                data = data[: len(data) // 2]
            self.send_response(200)
            self.send_header("Content-Type", "text/html" if self.path == "/page.jpg" else "image/jpeg")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


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
        frames = [source.read(10) for _ in range(5)]
    assert (source.size, source.fps, source.live) == ((64, 96), 50, True)
    assert all(np.diff([number_of(frame.image) for frame in frames]) >= 1)
    assert all(np.diff([frame.capture_ns for frame in frames]) > 0)


def test_a_damaged_picture_is_left_out(address):
    with open_source(f"http://{address}/cut.jpg#fps=50") as source:
        numbers = [number_of(source.read(10).image) for _ in range(3)]
    assert numbers[0] == 1
    assert 2 not in numbers
    assert source.counts["damaged"] == 1


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("snapshot:http://u:wrong@ADDRESS/cgi", "401.*wrong user or password"),
        ("http://ADDRESS/gone.jpg", "404.*nothing at that address"),
        ("http://ADDRESS/page.jpg", "page .text/html., not a picture"),
        ("http://127.0.0.1:9/a.jpg", "cannot be reached.*refused"),
        ("http://no-such-host.invalid/a.jpg", "cannot be reached"),
    ],
)
def test_what_is_wrong_is_said_without_the_password(spec, words, address):
    with pytest.raises(OSError, match=words) as caught:
        open_source(spec.replace("ADDRESS", address)).open()
    assert "wrong@" not in str(caught.value)
