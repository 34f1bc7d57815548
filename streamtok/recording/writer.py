"""Write one file of a recording: an MCAP writer for streamtok's topics, used by one thread.

Uncompressed images are stored as rows of RGB in zstd chunks. PNG takes longer to write; lossless H.264 takes longer to
read, and no viewer reads it. The file is larger, but a recorder that falls behind would lose frames.
"""

import contextlib
import errno
import fcntl
import os
import shutil
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from streamtok.extras import needs_extra
from streamtok.io.images.stills import encode_jpeg
from streamtok.io.messages.image_messages import protobuf_class
from streamtok.io.video.video_packets import begins_video
from streamtok.names import name_errors
from streamtok.preprocessing.pixels import name_encoding
from streamtok.recording import format as form
from streamtok.types import Frame
from streamtok.wire.message import Info, TokenHeader, encode

CHUNK_BYTES = 1 << 20  # of tokens and packets; a raw frame is a chunk of its own
STILLS = {"mjpeg": "jpeg", "jpeg": "jpeg", "png": "png", "webp": "webp"}  # {codec of a packet: format in the message}
VIDEOS = {"h264": "h264", "hevc": "h265", "h265": "h265", "vp9": "vp9"}
CHANGING = ("epoch", "last_seq", "clock", "ended", "control")  # fields of an info that need no new message

EXISTS = "{} exists and is not overwritten; name a new file, or a folder, where each start begins one"


@dataclass
class StreamEntry:
    """A stream's state in the writer: its info, and the offset from capture times to UTC, ns.

    `decodable` is the frame whose video packet can be decoded with those that are written; None before a key frame.
    """

    info: Info | None
    offset_ns: int
    session: str = ""
    channels: dict[str, int] = field(default_factory=dict)
    decodable: int | None = None

    def continues_video(self, frame: Frame) -> bool:
        """Whether to write a video packet: it is a key frame, follows one without a gap, or there is no picture.

        Otherwise the picture is stored: the stream has no key frames, or packets before this one were dropped.
        """
        assert frame.packet is not None
        assert frame.codec is not None
        keeps = self.decodable == frame.frame_id or begins_video(frame.codec, frame.packet)
        self.decodable = frame.frame_id + 1 if keeps else None
        return keeps or 0 in frame.picture.shape


class RecordingWriter:
    """Writes one MCAP file. It takes capture times; the file's log time is UTC.

    `frames` is how camera images are stored. "lossless" keeps compressed packets that a reader of the file can decode,
    and stores other images as rows of RGB in zstd chunks. "lossy" stores those as JPEG. The packet of a frame without a
    picture (H, W, 0) is always kept. Raises FileExistsError rather than overwrite.
    """

    def __init__(self, path: Path, metadata: dict[str, Any], frames: str = "lossless", pictures: bool = False):
        self.path = path
        self.frames, self.pictures = frames, pictures
        self.counts: Counter[str] = Counter()
        self._streams: dict[str, StreamEntry] = {}
        self._schemas: dict[str, int] = {}
        self._last_utc = 0
        with needs_extra("recording", "record"):
            from mcap.writer import CompressionType, Writer

            if frames != "none" or pictures:
                _import_images()
        try:
            self._stream = path.open("xb")
        except FileExistsError as error:
            raise FileExistsError(EXISTS.format(path)) from error
        self._place = self._find()
        with contextlib.suppress(OSError):  # tells `repair` that the file is still being written
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            with name_errors(path):
                self._writer = Writer(self._stream, chunk_size=CHUNK_BYTES, compression=CompressionType.ZSTD)
                library = f"streamtok {version('streamtok')}"
                self._writer.start(profile=form.PROFILE, library=library)
                facts = {"format": form.FORMAT, "version": form.VERSION, "frames": frames, "library": library}
                self._writer.add_metadata(form.MAIN_METADATA, form.as_text(facts | metadata))
                self._stream.flush()
        except BaseException:
            self.abandon()
            path.unlink(missing_ok=True)
            raise

    @property
    def nbytes(self) -> int:
        """Bytes in the file, without the open chunk."""
        return self._stream.tell()

    @property
    def room(self) -> int:
        """Free bytes on the disk of the open file, even if its folder was moved."""
        return shutil.disk_usage(self._stream.fileno()).free

    @property
    def is_removed(self) -> bool:
        """Whether nobody can open what is written: the file was deleted, or its file system unmounted."""
        place = self._find()
        try:
            place.stat()
        except OSError as error:
            return error.errno == errno.ENOENT and self._find() == place  # else it was moved between the two calls
        return False

    def follow(self) -> bool:
        """Whether the file was moved since the last call, alone or with its folder; `path` then says where to."""
        now = self._find()
        if now == self._place or self.is_removed:
            return False
        self.path = self._place = now
        return True

    def _find(self) -> Path:
        """Where Linux says that the open file is; on other systems, where it was opened."""
        with contextlib.suppress(OSError):
            return Path(os.readlink(f"/proc/self/fd/{self._stream.fileno()}"))
        return self.path

    def add_stream(self, name: str, info: Info | None, offset_ns: int) -> None:
        """Announce a stream, or a change in it; later messages refer to this info."""
        known = self._streams.get(name)
        session = info.session if info is not None else ""
        if known is None or known.session != session or known.offset_ns != offset_ns:
            known = self._streams[name] = StreamEntry(info, offset_ns, session)
        elif info is not None and _same_constants(known.info, info):
            return
        known.info = info
        if info is not None:
            known.channels.pop(form.TOKENS, None)  # a channel's metadata holds one size
            self._write_info(name, known, info)

    def write_tokens(self, header: TokenHeader, payload: bytes, grid: np.ndarray | None = None) -> None:
        """Append one token message of an announced stream; `grid` (h, w), if known, is its decoded payload."""
        entry = self._streams[header.stream]
        channel = entry.channels.get(form.TOKENS) or self._channel(entry, form.TOKENS, header.stream, form.TOKENS)
        data = form.pack_tokens(encode(header), payload)
        self._add(channel, entry, header.capture_ns[-1], data, (header.publish_ns, header.seq))
        self.counts[form.TOKENS + header.stream] += 1
        if self.pictures and grid is not None and grid.dtype != np.float16:
            self._picture(entry, header, grid.astype("<u2"))

    def write_frame(self, frame: Frame) -> None:
        """Append one camera image of an announced stream."""
        entry = self._streams[frame.stream]
        kind, schema, data = self._encode_frame(frame, entry)
        channel = entry.channels.get(form.FRAMES + kind)
        if channel is None:
            facts = {"first_frame_id": frame.frame_id, "codec": kind, "lossless": self.frames == "lossless"}
            channel = self._channel(entry, form.FRAMES, frame.stream, schema, **facts)
            entry.channels[form.FRAMES + kind] = channel
        self._add(channel, entry, frame.capture_ns, data, (frame.capture_ns, frame.frame_id))
        self.counts[form.FRAMES + frame.stream] += 1

    def write_missed(self, missed: form.Missed) -> None:
        """Append a note of messages that are not in the file."""
        entry = self._streams.setdefault("", StreamEntry(None, 0))
        channel = entry.channels.get(form.MISSED) or self._channel(entry, form.MISSED, "", form.MISSED)
        self._writer.add_message(channel, self._last_utc, msgspec.msgpack.encode(missed), self._last_utc)
        self.counts[f"missed/{missed.reason}"] += missed.count

    def flush(self) -> None:
        """Write everything so far to the system, so that it survives this process."""
        self._writer.flush()
        self._stream.flush()

    def sync(self) -> None:
        """Write what was flushed to the disk, so that it survives the machine; thread-safe. Raises OSError."""
        if not self._stream.closed:
            os.fdatasync(self._stream.fileno())

    def close(self, summary: dict[str, Any] | None = None) -> None:
        """Write the last infos, the summary and the index."""
        for name, entry in self._streams.items():
            if entry.info is not None:
                self._write_info(name, entry, entry.info)
        self._writer.add_metadata(form.SUMMARY_METADATA, form.as_text({**self.counts, **(summary or {})}))
        self._writer.finish()
        self._stream.flush()
        os.fdatasync(self._stream.fileno())
        self._stream.close()

    def abandon(self) -> None:
        """Close the file as it is, after an error; `repair` recovers what was flushed."""
        with contextlib.suppress(OSError):  # a full disk also refuses the buffered rest
            self._stream.close()

    def _add(self, channel: int, entry: StreamEntry, capture: int, data: bytes, rest: tuple[int, int]) -> None:
        published, sequence = rest
        utc, sent = capture + entry.offset_ns, max(0, published + entry.offset_ns)
        if not (0 <= utc < form.MAX_TIME and sent < form.MAX_TIME):  # half a record would break the file
            raise ValueError(f"time {utc} ns (published {sent}) is not one of 1970 to 2262")
        self._last_utc = max(self._last_utc, utc)
        self._writer.add_message(channel, utc, data, sent, sequence & 0xFFFFFFFF)

    def _write_info(self, name: str, entry: StreamEntry, info: Info) -> None:
        channel = entry.channels.get(form.INFO) or self._channel(entry, form.INFO, name, form.INFO)
        utc = self._last_utc or max(0, info.clock[1])
        self._writer.add_message(channel, utc, encode(info), utc)

    def _channel(self, entry: StreamEntry, prefix: str, stream: str, schema: str, **facts: Any) -> int:
        metadata = {"stream": stream, "session": entry.session, "clock_offset_ns": str(entry.offset_ns)}
        if prefix == form.TOKENS and entry.info is not None:
            info = msgspec.msgpack.decode(encode(entry.info))
            left_out = (*CHANGING, "version", "stream", *(["coder"] if info["coder"] is None else []))
            metadata |= form.as_text({key: info[key] for key in info if key not in left_out})
        metadata |= form.as_text(facts)
        encoding = "msgpack" if schema in form.SCHEMAS else "protobuf"
        channel = self._writer.register_channel(prefix + stream, encoding, self._schema(schema), metadata)
        entry.channels.setdefault(prefix, channel)
        return channel

    def _schema(self, name: str) -> int:
        if name not in self._schemas:
            if name in form.SCHEMAS:
                title, schema = form.describe_messages(name)
                described = title, "jsonschema", schema
            else:
                from mcap_protobuf.schema import build_file_descriptor_set

                files = build_file_descriptor_set(protobuf_class(name))
                described = f"foxglove.{name}", "protobuf", files.SerializeToString()
            self._schemas[name] = self._writer.register_schema(*described)
        return self._schemas[name]

    def _encode_frame(self, frame: Frame, entry: StreamEntry) -> tuple[str, str, bytes]:
        """Encode a camera image: (codec, schema name, message)."""
        utc, packet, codec = frame.capture_ns + entry.offset_ns, frame.packet, frame.codec
        if self.frames == "lossy" and packet is None and frame.image.shape[2] == 3:
            packet, codec = encode_jpeg(frame.image), "jpeg"
        if packet is not None and codec in VIDEOS and not entry.continues_video(frame):
            packet, codec = (encode_jpeg(frame.image), "jpeg") if self.frames == "lossy" else (None, None)
        for name, formats in (("CompressedImage", STILLS), ("CompressedVideo", VIDEOS)):
            if packet is not None and codec in formats:
                return codec, name, _pack_message(name, utc, frame.stream, data=packet, format=formats[codec])
        height, width, channels = frame.image.shape
        rows, encoding = np.ascontiguousarray(frame.image).tobytes(), name_encoding(channels)
        size = {"height": height, "width": width, "step": width * channels}
        return encoding, "RawImage", _pack_message("RawImage", utc, frame.stream, data=rows, encoding=encoding, **size)

    def _picture(self, entry: StreamEntry, header: TokenHeader, grid: np.ndarray) -> None:
        """Append the token grid (uint16) as a 16-bit grey image, for viewers of MCAP files."""
        width = header.grid[-1]
        channel = entry.channels.get(form.PICTURES) or self._channel(entry, form.PICTURES, header.stream, "RawImage")
        utc = header.capture_ns[-1] + entry.offset_ns
        size = {"height": grid.size // width, "width": width, "step": 2 * width}
        message = _pack_message("RawImage", utc, header.stream, data=grid.tobytes(), encoding="mono16", **size)
        self._add(channel, entry, header.capture_ns[-1], message, (header.publish_ns, header.seq))


def _same_constants(first: Info | None, second: Info) -> bool:
    """Whether two infos differ only in fields of `CHANGING`."""
    if first is None:
        return False
    return msgspec.structs.replace(second, **{name: getattr(first, name) for name in CHANGING}) == first


def _import_images() -> None:
    """Import the encoders of images up front: on a busy machine that takes seconds, and would delay the first image."""
    for name in ("RawImage", "CompressedImage", "CompressedVideo"):
        _pack_message(name, 0, "")
    import mcap_protobuf.schema  # noqa: F401


def _pack_message(name: str, utc_ns: int, stream: str, **fields: Any) -> bytes:
    from google.protobuf.timestamp_pb2 import Timestamp

    stamp = Timestamp(seconds=utc_ns // 10**9, nanos=utc_ns % 10**9)
    return protobuf_class(name)(timestamp=stamp, frame_id=stream, **fields).SerializeToString()
