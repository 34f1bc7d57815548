"""Decodes token messages to pictures, and packs them for pages."""

import json
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from streamtok.config.presets import PRESETS
from streamtok.event_log import EventLog
from streamtok.io.images.stills import encode_jpeg
from streamtok.model import Tokenizer
from streamtok.node.live_decoder import LiveDecoder
from streamtok.node.live_view import load_for_stream, shown_pictures
from streamtok.wire.header import Info
from streamtok.wire.message import TokenMessage

COLOURS = 3  # channels of a continuous grid that are shown


@contextmanager
def outlive(events: EventLog) -> Iterator[None]:
    """Log any error within the block, so that one bad message, or a failing viewer, does not end the stream."""
    try:
        yield
    except Exception as error:
        events.add(time.monotonic_ns(), "unshown", {"messages": 1}, error=repr(f"{type(error).__name__}: {error}"))


class Models:
    """Loads the models that streams name, each once, whatever fingerprints they claim; thread-safe."""

    def __init__(self, model: str | None, device: str) -> None:
        self._model, self._device = model, device
        self._lock = threading.Lock()
        self._known: dict[str, Tokenizer | str] = {}

    def find(self, info: Info) -> Tokenizer | str:
        """The tokenizer of a stream, or the reason why it has no pictures."""
        name = self._model or info.model
        with self._lock:
            try:
                if name not in self._known:
                    self._known[name] = load_for_stream(info, self._model, self._device)
                found = self._known[name]
                if not isinstance(found, str):
                    found.check_fingerprint(info.tokenizer)
                return found
            except (OSError, ValueError, RuntimeError, ImportError) as error:
                if name in PRESETS or self._model:  # other names are unbounded in number, and fail cheaply
                    self._known.setdefault(name, str(error))
                return str(error)


class Pictures:
    """Decodes the streams of one node or recording. `problems` says why a stream has no pictures."""

    def __init__(self, models: Models) -> None:
        self.problems: dict[str, str] = {}
        self._models = models
        self._decoders: dict[str, LiveDecoder] = {}
        self._skipping: set[str] = set()

    def decode_last(self, message: TokenMessage, info: Info, wanted: bool = True) -> np.ndarray | None:
        """The last picture of a message, uint8 RGB (h, w, 3), or None. If one is not `wanted`, its stream has no
        pictures until the next keyframe."""
        stream = message.stream
        if message.header.keyframe:
            self._skipping.discard(stream)
        if not wanted:
            self._skipping.add(stream)
        if stream in self._skipping:
            return None
        decoder = self._decoder_of(info)
        pictures = shown_pictures(message, decoder, info) if decoder else []
        return pictures[-1][1] if pictures else None

    def close(self) -> None:
        """Log what was only summed up so far."""
        for decoder in self._decoders.values():
            decoder.close()

    def _decoder_of(self, info: Info) -> LiveDecoder | None:
        found = self._models.find(info)
        if isinstance(found, str):
            self.problems[info.stream] = found
            return None
        self.problems.pop(info.stream, None)
        if info.tokenizer not in self._decoders:
            self._decoders[info.tokenizer] = LiveDecoder(found, info.context)
        return self._decoders[info.tokenizer]


@dataclass(frozen=True)
class Group:
    """A message with what is shown of it.

    `head` has facts for a page, with the stream's `id` and `stages_ms`. `picture` is the last one, uint8 RGB (h, w, 3).
    `source` is the camera's own as a JPEG or PNG file, and `utc_ns` its capture time, ns since 1970.
    """

    head: dict[str, Any]
    message: TokenMessage
    picture: np.ndarray | None = None
    source: bytes | None = None
    utc_ns: int = 0

    @cached_property
    def packed(self) -> bytes:
        """The group packed with its pictures."""
        return pack_group(self.head, self.message, self.picture, self.source)

    @cached_property
    def packed_without(self) -> bytes:
        """The group packed without pictures, for a page that decodes by itself; small, so that many may be queued."""
        return pack_group(self.head, self.message)


def pack_group(
    head: dict[str, Any], message: TokenMessage, picture: np.ndarray | None = None, source: bytes | None = None
) -> bytes:
    """Pack a message for a page: u32 length, JSON, then the parts, whose lengths are in the JSON.

    Part `tokens` is little-endian as on the wire, uncompressed; a continuous grid becomes `colours`, uint8 RGB
    (h, w, 3). `picture` (uint8 RGB, sent as JPEG) and `source` (a JPEG or PNG file) follow.
    """
    header, parts = message.header, {}
    if header.levels:
        parts["tokens"] = message.tokens.tobytes()
    else:
        parts["colours"] = paint_latent(message.tokens).tobytes()
    if picture is not None:
        parts["picture"] = encode_jpeg(picture)
    if source is not None:
        parts["source"] = source
    facts = {
        "kind": "group",
        "seq": header.seq,
        "epoch": header.epoch,
        "keyframe": header.keyframe,
        "decodable": message.decodable,
        "frame_ids": header.frame_ids,
        "grid": header.grid,
        "levels": header.levels,
        "dtype": header.dtype,
        "parts": {name: len(data) for name, data in parts.items()},
    }
    text = json.dumps(facts | head).encode()
    return b"".join([struct.pack("<I", len(text)), text, *parts.values()])


def paint_latent(latent: np.ndarray) -> np.ndarray:
    """Draw the first channels of a continuous grid, float16 (C, h, w), as uint8 (h, w, 3): -1 is 0, +1 is 255."""
    shown = np.zeros((COLOURS, *latent.shape[1:]), np.float32)
    shown[: len(latent)] = latent[:COLOURS]
    return ((np.clip(np.nan_to_num(shown), -1, 1) + 1) * 127.5).astype(np.uint8).transpose(1, 2, 0)


def time_stages(message: TokenMessage) -> dict[str, float]:
    """Milliseconds that a message's last frame waited for the encoder, and spent in it.

    It is empty for a file that was read faster than real time.
    """
    encode_ms = message.header.encode_ns / 1e6
    wait_ms = (message.header.publish_ns - message.capture_ns) / 1e6 - encode_ms
    return {"wait": wait_ms, "encode": encode_ms} if wait_ms >= 0 else {}


def gather_facts(info: Info) -> dict[str, Any]:
    """The facts of a stream that a page needs."""
    names = ["stream", "node", "model", "tokenizer", "grid", "image_size", "frame_rate", "predictive", "replay"]
    names += ["temporal_compression", "spatial_compression", "source_rect", "ended"]
    return {name: getattr(info, name) for name in names}
