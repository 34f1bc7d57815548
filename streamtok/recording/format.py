"""The file format of recordings: topics, schemas and the packing of messages; docs/wire-protocol.md describes it."""

import contextlib
import json
import logging
from typing import Any, Generic, TypeVar

import msgspec

from streamtok.names import as_utf8
from streamtok.wire.header import Info, TokenHeader

log = logging.getLogger("streamtok.record")

FORMAT, VERSION = "streamtok-recording", 1
PROFILE = "streamtok"
MAIN_METADATA, SUMMARY_METADATA, REPAIR_METADATA = "streamtok", "streamtok.summary", "streamtok.repair"
TOKENS, INFO, FRAMES, PICTURES, MISSED = "tokens/", "info/", "frames/", "token_images/", "missed"
MAX_TIME = 1 << 63  # ns since 1970: the limit that every reader of MCAP accepts
FRAME_MODES = ("none", "lossless", "lossy")
TEXT_FACTS = ("node", "session", "stream", "tokenizer", "model", "dtype", "compression", "coder", "fit")  # others: JSON

Header = TypeVar("Header")


class StoredTokens(msgspec.Struct, Generic[Header]):
    """One token grid: the header as sent on the wire, and the payload as sent: by default row-major, little-endian."""

    header: Header
    payload: bytes


class Missed(msgspec.Struct, frozen=True):
    """`count` messages of a `kind`, "tokens" or "frames", that are not in this file though they were sent.

    The `reason`: lost on the way ("network"), as the recorder was behind ("queue"), for want of room ("disk"), or as no
    file could hold them ("unstorable").
    """

    stream: str
    kind: str
    count: int
    reason: str


SCHEMAS = {
    TOKENS: ("streamtok.TokenMessage", StoredTokens[TokenHeader]),
    INFO: ("streamtok.Info", Info),
    MISSED: ("streamtok.Missed", Missed),
}
"""{topic: (name of the schema, type of its messages)}; they are encoded as msgpack."""
STORED = msgspec.msgpack.Decoder(StoredTokens[msgspec.Raw])


def describe_messages(topic: str) -> tuple[str, bytes]:
    """Name and JSON Schema of the messages of a topic in `SCHEMAS`."""
    name, kind = SCHEMAS[topic]
    (root,), parts = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    described = parts.pop(root["$ref"].rpartition("/")[2])
    schema = msgspec.json.encode(described | {"title": name, "$defs": parts})
    schema = schema.replace(b'"base64"', b'"binary"')  # as msgpack has bytes; JSON has not
    return name, schema.replace(rb"\\A", b"^").replace(rb"\\Z", b"$")  # JSON Schema is ECMA 262's, without \A


def pack_tokens(header: bytes, payload: bytes) -> bytes:
    """Pack one token message as it is stored."""
    return msgspec.msgpack.encode(StoredTokens(msgspec.Raw(header), payload))


def unpack_tokens(data: bytes | memoryview) -> tuple[bytes, bytes]:
    """Header and payload of a stored token message; raises ValueError if it is damaged."""
    stored = STORED.decode(data)
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
