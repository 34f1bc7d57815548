"""The file format of recordings: topics, schemas and the packing of messages; docs/wire-protocol.md describes it."""

import contextlib
import json
import logging
from typing import Any

import msgspec

from streamtok.names import as_utf8
from streamtok.wire.header import Info

log = logging.getLogger("streamtok.record")

FORMAT, VERSION = "streamtok-recording", 1
PROFILE = "streamtok"
MAIN_METADATA, SUMMARY_METADATA, REPAIR_METADATA = "streamtok", "streamtok.summary", "streamtok.repair"
TOKENS, INFO, FRAMES, PICTURES, MISSED = "tokens/", "info/", "frames/", "token_images/", "missed"
MAX_TIME = 1 << 63  # ns since 1970: the limit that every reader of MCAP accepts
FRAME_MODES = ("none", "lossless", "lossy")
TEXT_FACTS = ("node", "session", "stream", "tokenizer", "model", "dtype", "compression", "coder", "fit")  # others: JSON

_INTEGERS: dict[str, Any] = {"type": "array", "items": {"type": "integer"}}
TOKEN_SCHEMA: dict[str, Any] = {
    "title": "streamtok.TokenMessage",
    "description": "One token grid: the header as sent on the wire, and its payload. Encoded as msgpack.",
    "type": "object",
    "required": ["header", "payload"],
    "properties": {
        "header": {
            "type": "object",
            "properties": {
                "version": {"type": "integer"},
                "stream": {"type": "string"},
                "session": {"type": "string", "description": "new at each start of the publishing node"},
                "epoch": {"type": "integer", "description": "counts resets; its first group is a keyframe"},
                "seq": {"type": "integer", "description": "rises by one per message; a jump is a loss"},
                "keyframe": {"type": "boolean"},
                "tokenizer": {"type": "string", "description": "fingerprint of weights and config"},
                "frame_ids": _INTEGERS,
                "capture_ns": {**_INTEGERS, "description": "ns, monotonic clock; + clock_offset_ns gives UTC"},
                "dropped": {"type": "integer", "description": "frames lost since the message before"},
                "repeated": {"type": "integer", "description": "frames added to fill the group"},
                "grid": {**_INTEGERS, "description": "[h, w], [Q, h, w] or [C, h, w]"},
                "dtype": {"enum": ["uint16", "uint32", "float16"]},
                "levels": _INTEGERS,
                "image_size": {**_INTEGERS, "description": "[H, W] that was encoded"},
                "encode_ns": {"type": "integer"},
                "publish_ns": {"type": "integer"},
                "compression": {"enum": ["none", "zstd", "coded"]},
                "checksum": {"type": "integer", "description": "zlib CRC-32 of the payload"},
                "hold": {"type": "number", "description": "levels of the group before were kept within this margin"},
                "coding": {"type": "object", "description": "of compression coded: coder, checksum, independent"},
            },
        },
        "payload": {"type": "string", "contentEncoding": "binary", "description": "the grid, row-major, little-endian"},
    },
}
INFO_SCHEMA: dict[str, Any] = {
    "title": "streamtok.Info",
    "description": "What stays the same from message to message of a stream, as sent on info/<stream>. msgpack.",
    "type": "object",
}
MISSED_SCHEMA: dict[str, Any] = {
    "title": "streamtok.Missed",
    "description": "What is not in this file though it was sent: lost on the way (network), as the recorder was behind "
    "(queue), for want of room (disk), or as no file could hold it (unstorable). Encoded as msgpack.",
    "type": "object",
    "properties": {
        "stream": {"type": "string"},
        "kind": {"enum": ["tokens", "frames"]},
        "count": {"type": "integer"},
        "reason": {"enum": ["network", "queue", "disk", "unstorable"]},
    },
}
SCHEMAS: dict[str, dict[str, Any]] = {TOKENS: TOKEN_SCHEMA, INFO: INFO_SCHEMA, MISSED: MISSED_SCHEMA}


class StoredTokens(msgspec.Struct):
    """A token message in the file: the header as on the wire, and the payload as sent."""

    header: msgspec.Raw
    payload: bytes


class Missed(msgspec.Struct, frozen=True):
    """`count` messages of one kind ("tokens", "frames") that are not in the file, and the reason."""

    stream: str
    kind: str
    count: int
    reason: str


def pack_tokens(header: bytes, payload: bytes) -> bytes:
    """Pack one token message as it is stored."""
    return msgspec.msgpack.encode(StoredTokens(msgspec.Raw(header), payload))


def unpack_tokens(data: bytes | memoryview) -> tuple[bytes, bytes]:
    """Header and payload of a stored token message; raises ValueError if it is damaged."""
    stored = msgspec.msgpack.decode(data, type=StoredTokens)
    return bytes(stored.header), stored.payload


def drop_unstorable(info: Info) -> Info:
    """The info without the maps that MCAP metadata cannot hold: with bytes, msgpack extensions or odd keys."""
    changes: dict[str, dict[str, Any]] = {}
    for name in ("metadata", "engine"):
        try:
            json.dumps(getattr(info, name), allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            log.warning("stream=%s event=left_out field=%s error=%r", info.stream, name, str(error))
            changes[name] = {}
    return msgspec.structs.replace(info, **changes) if changes else info


def as_text(values: dict[str, Any]) -> dict[str, str]:
    """Values as MCAP metadata, which holds only text: text as it is, everything else as JSON."""
    return {key: as_utf8(value) if isinstance(value, str) else json.dumps(value) for key, value in values.items()}


def from_text(metadata: dict[str, str]) -> dict[str, Any]:
    """The values of a channel's metadata, the inverse of `as_text`; text that is not JSON stays text."""
    values: dict[str, Any] = dict(metadata)
    for key in metadata.keys() - set(TEXT_FACTS):
        with contextlib.suppress(ValueError, RecursionError):
            values[key] = json.loads(metadata[key])
    return values
