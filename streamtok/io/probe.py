"""Inspect a source by opening it and reading some of its frames: `streamtok doctor SOURCE`."""

import contextlib
import itertools
import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from logging.handlers import BufferingHandler
from pathlib import Path

import av
import numpy as np

from streamtok.config import PRESETS
from streamtok.io.base import EndOfSource, Source
from streamtok.io.cameras.camera import CameraSource
from streamtok.io.cameras.network_camera import NetworkCamera
from streamtok.io.codecs.whole_packets import say_unseen
from streamtok.io.images.source import ImageFileSource, ImageFolderSource
from streamtok.io.source import open_source
from streamtok.io.video.clean_decoder import CleanDecoder
from streamtok.io.video.containers import demux, open_container, read_rate, video_streams
from streamtok.io.video.source import VideoSource
from streamtok.names import is_url
from streamtok.preprocessing.orientation import find_orientation
from streamtok.redaction import without_password
from streamtok.times import TimeJudge, usual_step
from streamtok.types import Frame

LIVE_S, READ_S = 10.0, 1.0
MOST_PACKETS = 100  # decoded at most to find the orientation
TURNED = (  # how pictures of the orientations 1 to 8 are stored
    *("upright", "mirrored", "turned by 180 degrees", "mirrored upside down", "mirrored and turned by 90 degrees"),
    *("turned by 90 degrees", "mirrored and turned by 270 degrees", "turned by 270 degrees"),
)


@dataclass(frozen=True)
class StreamFacts:
    """One video stream by its headers: `size` (height, width) as stored, frames per second, and whether it is read."""

    number: int
    codec: str
    size: tuple[int, int]
    pixels: str
    rate: float | None
    read: bool

    def __str__(self) -> str:
        height, width = self.size
        rate = f", {self.rate:.4g} per second" if self.rate else ""
        return f"{self.number}: {self.codec} {height}x{width} {self.pixels}{rate}{', is read' if self.read else ''}"


@dataclass
class Probe:
    """What was found. `sizes` are the (height, width) of the delivered, upright frames, in the order of appearance.

    `missing` lists the gaps in frame numbers: (seconds from the first frame, number of missing frames). `claimed_rate`
    is from headers, `rate` from the times of the frames (both per second). `counts` are the source's. `notes` are the
    warnings logged meanwhile, `does` tells what an encoder would do with the source.
    """

    source: str
    kind: str
    container: str = ""
    streams: list[StreamFacts] = field(default_factory=list)
    live: bool = False
    frames: int = 0
    complete: bool = False  # it was read to its end
    sizes: list[tuple[int, int]] = field(default_factory=list)
    claimed_rate: float | None = None
    rate: float | None = None
    rate_from: str = ""
    clock: str = ""
    orientation: str = "upright"
    time_gaps: int = 0
    missing: list[tuple[float, int]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    does: list[str] = field(default_factory=list)


def _add_streams(found: Probe, target: str, wanted: int | None) -> None:
    """Fill in a file's container format, its video streams, and the orientation of the stream that is read."""
    container, chosen = open_container(target, stream=wanted, live=found.live)
    with container:
        found.container = container.format.name
        for number, stream in enumerate(video_streams(container)):
            context, rate = stream.codec_context, read_rate(container, stream)
            name, pixels = (context.name, context.pix_fmt or "") if context else ("unknown", "")
            size = (context.height, context.width) if context else (0, 0)
            facts = StreamFacts(number, name, size, pixels, float(rate) if rate else None, stream is chosen)
            found.streams.append(facts)
        with contextlib.suppress(av.FFmpegError, StopIteration):
            decoder = CleanDecoder(chosen.codec_context)
            packets = itertools.islice(demux(container, chosen), MOST_PACKETS)
            checked = (one for packet in packets for one in decoder.decode(packet))
            found.orientation = TURNED[next(one.frame.opaque[0] for one in checked if one.frame) - 1]


def probe_source(spec: str, frames: int = 300) -> Probe:
    """Open a source and read up to `frames` frames, a camera for 10 s at most. Raises as opening and reading do."""
    notes, logger = BufferingHandler(10_000), logging.getLogger("streamtok")
    notes.setLevel(logging.WARNING)
    logger.addHandler(notes)
    propagate, logger.propagate = logger.propagate, False
    try:
        source = open_source(spec, max_frames=frames, keep_packets=True)
        told = source.device if isinstance(source, CameraSource) else source
        found = Probe(without_password(spec), told.kind, live=source.live)
        _describe(found, source)  # before it is opened: some cameras have one reader at a time
        with source:
            found.claimed_rate, found.clock = source.fps, told.clock
            found.rate_from = source.rate_from if isinstance(source, VideoSource) else found.rate_from
            _read(found, source)
    finally:
        logger.removeHandler(notes)
        logger.propagate = propagate
    found.notes = [without_password(text) for text in dict.fromkeys(record.getMessage() for record in notes.buffer)]
    found.does = list(_describe_encoding(found))
    return found


def _describe(found: Probe, source: Source) -> None:
    """Fill in what is known without reading frames."""
    found.rate_from = "the source says so"
    if isinstance(source, CameraSource) and isinstance(source.device, NetworkCamera):
        _add_streams(found, source.device.url, None)
    if isinstance(source, VideoSource) and (is_url(str(source.path)) or Path(source.path).is_file()):  # else a pipe
        _add_streams(found, str(source.path), source.options.get("stream"))
    if isinstance(source, ImageFolderSource | ImageFileSource):
        path = source.path if isinstance(source, ImageFileSource) else source.images[0].path
        orientation, _ = find_orientation(path.read_bytes())
        found.orientation = TURNED[orientation - 1]
        found.rate_from = "the times of the images"


def _read(found: Probe, source: Source) -> None:
    times: list[int] = []
    ids: list[int] = []
    sizes: Counter[tuple[int, int]] = Counter()
    stop = time.monotonic() + LIVE_S if source.live else float("inf")
    while time.monotonic() < stop:
        try:
            frame: Frame | None = source.read(READ_S)
        except EndOfSource as end:
            found.complete = not source.live and "asked for" not in str(end)
            break
        if frame is not None:
            times.append(frame.capture_ns)
            ids.append(frame.frame_id)
            sizes[frame.picture.shape[:2]] += 1
    step = usual_step(np.array(times, np.int64))
    found.frames, found.sizes = len(times), list(sizes)
    found.rate = 1e9 / step if step > 0 else None
    judge = TimeJudge()
    found.time_gaps = sum(step.missing > 0 or step.was_set for step in map(judge.see, times))
    jumps = zip(times, itertools.pairwise(ids), strict=False)
    found.missing = [((at - times[0]) / 1e9, b - a - 1) for at, (a, b) in jumps if b > a + 1]
    found.counts = {name: count for name, count in source.counts.items() if count and name != "frames"}


def _describe_encoding(found: Probe) -> list[str]:
    does = []
    if len(found.streams) > 1:
        does.append(f"one of {len(found.streams)} video streams is read (FILE?stream=N chooses); replay reads them all")
    if found.rate_from == "assumed" and found.claimed_rate:
        does.append("its headers say no rate, and 25 per second are assumed: FILE?fps=20 says another")
    if found.orientation != "upright":
        does.append(f"pictures are {found.orientation} as stored; they are turned upright, and recorded so")
    if found.counts.get("damaged"):
        does.append("damaged pictures are left out and counted; the encoder starts anew behind each gap")
    if found.counts.get("backwards"):
        does.append("pictures whose time does not rise are left out and counted")
    does += [
        text
        for stream in found.streams
        if stream.read and stream.codec in av.codecs_available
        for text in say_unseen(stream.codec)
    ]
    if len(found.sizes) > 1:
        does.append("the size changes: each change starts a new epoch, and token files of each size are written apart")
    if found.sizes:
        config, rate = PRESETS["nano"], found.rate or found.claimed_rate
        padded = config.pad_size(found.sizes[0])
        rows, columns = config.grid(*padded)
        pad = "" if padded == found.sizes[0] else f"pads it to {padded[0]}x{padded[1]} and "
        frames = "the picture" if found.frames == 1 else f"{config.temporal_compression} frames"
        kbits = f", {16 * rows * columns * rate / config.temporal_compression / 1000:.0f} kbit/s" if rate else ""
        does.append(f"nano {pad}makes a grid of {rows}x{columns} tokens of {frames}{kbits}")
    policy = "latest: frames that the encoder cannot follow are left out" if found.live else "lossless: all are encoded"
    return [*does, f"encoding is {policy}"]
