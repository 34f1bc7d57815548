"""A real RTSP camera on this machine: RTP over TCP as FFmpeg packs it, with faults on order."""

import base64
import contextlib
import functools
import hashlib
import itertools
import re
import socket
import socketserver
import struct
import threading
import time
from fractions import Fraction

import av

from tests.kit.videos import PIXELS
from tests.kit.web import speak_tls

TICKS = 90_000
SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=video 0 RTP/AVP 96\r\na=rtpmap:96 {name}/90000\r\n{more}a=control:track0\r\n"
)
NAMES = {"libx264": ("H264", "a=fmtp:96 packetization-mode=1\r\n"), "libx265": ("H265", ""), "mjpeg": ("JPEG", "")}


class Sink:
    def __init__(self):
        self.parts = []

    def write(self, data):
        self.parts.append(bytes(data))
        return len(data)


def to_rtp(images, codec="libx264", **options):
    """The RTP packets of each picture of a clip, in order of decoding."""
    sink = Sink()
    with av.open(sink, "w", format="rtp", options={"packetsize": "400"}, buffer_size=4096) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = PIXELS.get(codec, "yuv420p")
        stream.codec_context.flags &= ~av.codec.context.Flags.global_header
        pictures = []
        for number, image in enumerate([*images, None]):
            frame = None
            if image is not None:
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
            for packet in stream.encode(frame):
                sink.parts = []
                container.mux(packet)
                pictures.append([part for part in sink.parts if not 200 <= part[1] < 210])  # without RTCP
    return pictures


def right_tick(number, fps):
    """The time of a picture in RTP."""
    return number * TICKS // fps


def stamped(pictures, fps, tick=right_tick):
    """(picture, part, RTP packet) of pictures over and over, with sequence numbers and times that go on."""
    sequence = 0
    for number, parts in enumerate(itertools.cycle(pictures)):
        for place, part in enumerate(parts):
            head = struct.pack(">HI", sequence & 0xFFFF, tick(number, fps) & 0xFFFFFFFF)
            sequence += 1
            yield number, place, part[:2] + head + part[8:]


def send_interleaved(connection, data):
    """Send an RTP packet on the connection of RTSP."""
    connection.sendall(b"$\0" + struct.pack(">H", len(data)) + data)


class Camera:
    """Plays clips, each as `to_rtp` gives it, over and over at `fps`, to every client from the beginning.

    `lose(picture, part)` says which RTP packets never come, numbered from 0 in each connection, and `again` which come
    once more, after how many others. The first `burst`
    pictures come at once, as those that a camera had buffered. With `udp` it knows no other way. With a `certificate`
    (a file of a key and of it) it speaks RTSPS. Users named "user" may say the `password` as it is, or its `digest`.
    """

    def __init__(
        self,
        *clips,
        codec="libx264",
        fps=50,
        password=None,
        lose=None,
        again=None,
        burst=0,
        port=0,
        udp=False,
        certificate=None,
        digest=False,
        tick=right_tick,
    ):
        self.clips, self.codec, self.fps, self.burst, self.udp = clips, codec, fps, burst, udp
        self.digest, self.tick = digest, tick
        self.password, self.lose, self.again = password, lose or (lambda picture, part: False), again or {}
        self._connections = set()
        camera = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                camera._connections.add(self.request)
                with contextlib.suppress(OSError):
                    camera._talk(self.request)
                camera._connections.discard(self.request)

        socketserver.ThreadingTCPServer.allow_reuse_address = True
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        if certificate:
            speak_tls(self._server, certificate)
        self._scheme = "rtsps" if certificate else "rtsp"
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def url(self, user=""):
        return f"{self._scheme}://{user}127.0.0.1:{self.port}/stream"

    def stop(self):
        """As if the plug were pulled."""
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):  # the client has gone
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.stop()

    def _talk(self, connection):
        lines = connection.makefile("rb")
        while head := lines.readline().decode():
            fields = {}
            while (line := lines.readline().decode().strip()) != "":
                name, _, value = line.partition(":")
                fields[name.lower()] = value.strip()
            method = head.split()[0] if head.strip() else ""
            if not method:
                continue
            status, more, body = self._answer(method, head.split()[1], fields)
            length = f"Content-Length: {len(body)}\r\n" if body else ""
            answer = f"RTSP/1.0 {status}\r\nCSeq: {fields.get('cseq', 0)}\r\n{more}{length}\r\n{body}"
            connection.sendall(answer.encode())
            if method == "SETUP" and self.udp and status.startswith("200"):
                client = "127.0.0.1", int(fields["transport"].partition("client_port=")[2].partition("-")[0])
            if method == "PLAY" and status.startswith("200"):
                send = self._make_datagrams(client) if self.udp else functools.partial(send_interleaved, connection)
                threading.Thread(target=self._play, args=(send,), daemon=True).start()

    def _make_datagrams(self, client):
        out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        return lambda data: out.sendto(data, client)

    def _answer(self, method, target, fields):
        if self.password is not None and not self._is_right(method, fields.get("authorization", "")):
            asked = 'Digest realm="camera", nonce="once", qop="auth"' if self.digest else 'Basic realm="camera"'
            return "401 Unauthorized", f"WWW-Authenticate: {asked}\r\n", ""
        if not target.rstrip("/").endswith(("/stream", "/track0")):
            return "404 Not Found", "", ""
        asked = fields.get("transport", "")
        if method == "SETUP" and self.udp:
            answer = f"Transport: {asked};server_port=9-10\r\nSession: 1\r\n", ""
            return ("461 Unsupported Transport", "", "") if "TCP" in asked else ("200 OK", *answer)
        name, more = NAMES[self.codec]
        known = {
            "OPTIONS": ("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n", ""),
            "DESCRIBE": ("Content-Type: application/sdp\r\n", SDP.format(name=name, more=more)),
            "SETUP": ("Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n", ""),
        }
        return "200 OK", *known.get(method, ("Session: 1\r\n", ""))

    def _is_right(self, method, given):
        if not self.digest:
            return given == f"Basic {base64.b64encode(f'user:{self.password}'.encode()).decode()}"
        said = dict(re.findall(r'(\w+)="?([^",]+)"?', given))
        ours = [f"user:camera:{self.password}", f"{method}:{said.get('uri')}"]
        user, request = [hashlib.md5(text.encode()).hexdigest() for text in ours]
        parts = [user, "once", *(said.get(name, "") for name in ("nc", "cnonce", "qop")), request]
        return said.get("response") == hashlib.md5(":".join(parts).encode()).hexdigest()

    def _play(self, send):
        started, late = time.monotonic(), {}
        packets = stamped([picture for clip in self.clips for picture in clip], self.fps, self.tick)
        try:
            for count, (number, place, data) in enumerate(packets):
                if place == 0:
                    time.sleep(max(0.0, started + (number - self.burst) / self.fps - time.monotonic()))
                if not self.lose(number, place):
                    send(data)
                if (number, place) in self.again:
                    late[count + self.again[number, place]] = data
                if count in late:
                    send(late[count])
        except OSError:
            pass
