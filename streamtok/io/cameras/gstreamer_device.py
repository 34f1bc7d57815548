"""A camera behind a GStreamer pipeline, which runs in a process of its own.

`gst-launch-1.0` runs the pipeline, with its `appsink` replaced by elements that write RGB pictures into a pipe. Each
picture follows a header of the GStreamer Data Protocol 1.0 (gst-plugins-bad, `gst/gdp/dataprotocol.c`), which holds its
time in the pipeline.
"""

import contextlib
import os
import re
import select
import shlex
import shutil
import struct
import subprocess
import tempfile
import time
from typing import IO, NamedTuple

import numpy as np

from streamtok.io.base import EndOfSource
from streamtok.io.cameras.camera import Device, Grabbed
from streamtok.io.cameras.stream_clock import StreamClock
from streamtok.redaction import without_password

LAUNCH = "gst-launch-1.0"
TO_RGB = "!", "videoconvert", "!", "video/x-raw,format=RGB"
SINK = re.compile(r"!\s*appsink\b([^!]*)$")
HEADER = struct.Struct(">4xHIQ44x")  # kind and length of the payload, time in ns
BUFFER, CAPS = 1, 2
NO_TIME = 2**64 - 1
MOST_BYTES = 1 << 28  # of a payload
SILENT_S, STOP_S = 5.0, 2.0


class Packet(NamedTuple):
    """One packet of the GStreamer Data Protocol: its kind, its time in the pipeline (ns, or NO_TIME), its payload."""

    kind: int
    time_ns: int
    payload: bytearray


def find_launcher() -> str:
    """The path of gst-launch-1.0; if something is missing, OSError says what to install."""
    launcher = shutil.which(LAUNCH)
    if launcher is None:
        raise OSError(
            f"gst: there is no {LAUNCH} to run the pipeline: "
            "apt install gstreamer1.0-tools gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"
        )
    inspector = shutil.which("gst-inspect-1.0", path=os.path.dirname(launcher))
    if inspector and subprocess.run([inspector, "--exists", "gdppay"], check=False, timeout=60).returncode:
        raise OSError("gst: the pipeline's pictures need the element gdppay: apt install gstreamer1.0-plugins-bad")
    return launcher


class GStreamerDevice(Device):
    """Runs "PIPELINE ! appsink" and takes its pictures; of the appsink's options only `sync` is kept.

    A picture's time is its buffer's time in the pipeline, put on this machine's clock by `StreamClock`.
    """

    kind, clock = "GStreamer pipeline", "the pipeline's times, put on this machine's clock"

    def __init__(self, pipeline: str) -> None:
        sink = SINK.search(pipeline)
        if sink is None:
            raise ValueError(f"source gst:{pipeline}: expected a pipeline that ends in `! appsink`")
        sync = re.search(r"\bsync=\S+", sink[1])
        self.name = without_password(pipeline)
        self._elements = [*shlex.split(pipeline[: sink.start()]), *TO_RGB]
        self._sink = ["!", "gdppay", "!", "fdsink", sync[0] if sync else "sync=true"]
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: int | None = None
        self._errors: IO[bytes] | None = None
        self._clock = StreamClock()

    def connect(self) -> None:
        """Start the pipeline and wait for the size of its pictures; OSError quotes the pipeline's error if it fails."""
        self.release()
        launcher = find_launcher()
        reading, writing = os.pipe()
        self._pipe, self._errors = reading, tempfile.TemporaryFile()  # noqa: SIM115
        try:
            command = [launcher, "-q", *self._elements, *self._sink, f"fd={writing}"]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=self._errors, stderr=self._errors, pass_fds=[writing]
            )
        finally:
            os.close(writing)
        self._clock, self.size = StreamClock(), None
        while self.size is None:
            packet = self._next_packet()
            if packet is None:
                told = self._read_errors()
                self.release()
                raise OSError(f"gst: the pipeline {self.name!r} gives no picture: {told or 'nothing came for 5 s'}")
            self._take_caps(packet)

    def grab(self) -> Grabbed | None:
        """The next picture, uint8 RGB (H, W, 3); None if nothing comes. Raises EndOfSource if the pipeline ended."""
        while (packet := self._next_packet()) is not None and packet.kind != BUFFER:
            self._take_caps(packet)
        if packet is not None:
            capture_ns, timed = time.monotonic_ns(), packet.time_ns != NO_TIME
            if timed:
                self._clock.see(packet.time_ns, capture_ns)
                capture_ns = self._clock.to_local(packet.time_ns)
            height, width = self.size or (0, 0)
            rows = np.frombuffer(packet.payload, np.uint8).reshape(height, -1)  # padded to a multiple of 4 bytes
            image = np.ascontiguousarray(rows[:, : width * 3].reshape(height, width, 3))
            return Grabbed(image, capture_ns, timed=timed, stream_ns=packet.time_ns)
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._process is not None and self._process.wait(STOP_S) == 0:
                raise EndOfSource("the pipeline has ended")
        return None

    def release(self) -> None:
        """End the pipeline."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._pipe is not None:
            os.close(self._pipe)
        if self._errors is not None:
            self._errors.close()
        self._process = self._pipe = self._errors = None

    def _next_packet(self) -> Packet | None:
        """The next packet; None at the end of the pipe, or if nothing comes for too long."""
        header = self._read(HEADER.size)
        if header is None:
            return None
        kind, length, time_ns = HEADER.unpack(header)
        if length > MOST_BYTES:
            raise OSError(f"gst: a packet of {length} bytes from {self.name!r}: expected the GStreamer Data Protocol")
        payload = self._read(length)
        return None if payload is None else Packet(kind, time_ns, payload)

    def _read(self, length: int) -> bytearray | None:
        data, at = bytearray(length), 0
        while at < length:
            if self._pipe is None or not select.select([self._pipe], [], [], SILENT_S)[0]:
                return None
            count = os.readv(self._pipe, [memoryview(data)[at:]])
            if not count:
                return None
            at += count
        return data

    def _take_caps(self, packet: Packet) -> None:
        if packet.kind != CAPS:
            return
        caps = packet.payload.decode(errors="replace")
        found = {name: re.search(rf"{name}=\(int\)(\d+)", caps) for name in ("height", "width")}
        height, width = (int(match[1]) if match else 0 for match in found.values())
        if not height or not width:
            raise OSError(f"gst: {self.name!r} gives pictures without a size: {caps}")
        rate = re.search(r"framerate=\(fraction\)(\d+)/(\d+)", caps)
        self.size = height, width
        self.fps = int(rate[1]) / int(rate[2]) if rate and int(rate[1]) and int(rate[2]) else None

    def _read_errors(self) -> str:
        """The pipeline's first error or warning, else its last line of output."""
        if self._errors is None:
            return ""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()
        told = [line.partition(": ")[2] or line for line in lines if line.startswith(("ERROR", "WARNING"))]
        return without_password(told[0] if told else " ".join(lines[-1:]))
