"""Token and picture messages of streamtok's wire, checked and followed. No ROS."""

import re
import zlib
from collections.abc import Sequence
from typing import Any

import msgpack

WIDTHS = {"uint16": 2, "uint32": 4, "float16": 2}
MAX_GRID, MAX_HEADER, MAX_FRAME = 1 << 22, 1 << 16, 1 << 26
Taken = tuple[dict[str, Any], bytes, int, bool]  # header, payload, messages lost before, decodable
FIELDS = {  # what is used here of each kind of message, and what it has to be
    "tokens": {
        **dict.fromkeys(("session", "tokenizer", "dtype"), str),
        **dict.fromkeys(("epoch", "seq", "dropped", "repeated", "encode_ns", "checksum"), int),
        **dict.fromkeys(("frame_ids", "capture_ns", "grid", "levels", "image_size"), list),
        "keyframe": bool,
    },
    "frames": {"frame_id": int, "capture_ns": int, "encoding": str},
    "info": {"session": str, "last_seq": int, "clock": list, "image_size": list},
}


def read_message(parts: Sequence[bytes], kind: str, streams: Sequence[str]) -> tuple[str, dict[str, Any], bytes]:
    """Stream, header and payload of a message of a kind ("tokens", "frames", "info"); ValueError for a broken one.

    KeyError for a stream that is not among `streams`: ZeroMQ matches topics by prefix.
    """
    if len(parts) != 3 or len(parts[1]) > MAX_HEADER or len(parts[2]) > MAX_FRAME:
        raise ValueError(f"{len(parts)} parts, expected topic, header and payload of usual sizes")
    try:
        header = msgpack.unpackb(parts[1])
    except Exception as error:  # msgpack raises several unrelated types
        raise ValueError(f"the header is not msgpack: {error}") from error
    if not isinstance(header, dict) or header.get("version") != 1:
        raise ValueError("the header is not of version 1")
    stream = header.get("stream")
    if parts[0] != f"{kind}/{stream}".encode():
        raise ValueError(f"topic {parts[0]!r} is not the one of its header's stream {stream!r}")
    if stream not in streams:
        raise KeyError(stream)
    wrong = [name for name, needed in FIELDS[kind].items() if not isinstance(header.get(name), needed)]
    if wrong:
        raise ValueError(f"wrong or missing in the header: {', '.join(wrong)}")
    return stream, header, parts[2]


def check_group(header: dict[str, Any], payload: bytes) -> None:
    """ValueError unless a token message is whole."""
    if header.get("compression", "none") != "none":
        raise ValueError(f"compression {header['compression']!r} is not read here: run the node without --compression")
    count = 1
    for side in header["grid"]:
        count *= side
    if not 0 < count <= MAX_GRID or len(payload) != count * WIDTHS.get(header["dtype"], 0):
        raise ValueError(f"{len(payload)} bytes for a grid {header['grid']} of {header['dtype']}")
    if zlib.crc32(payload) != header["checksum"]:
        raise ValueError("the payload is damaged (checksum)")
    if len(header["frame_ids"]) != len(header["capture_ns"]) or not header["frame_ids"]:
        raise ValueError("frame_ids and capture_ns are not as many")


def name_topics(streams: Sequence[str]) -> dict[str, str]:
    """The namespace of each stream's topics as ROS takes names: no dash, no digit first. ValueError if two are one."""
    topics = {name: "streamtok/" + re.sub(r"^(?=\d)", "_", name.replace("-", "_")) for name in streams}
    twice = [name for name, topic in topics.items() if list(topics.values()).count(topic) > 1]
    if twice:
        raise ValueError(
            f"streams {', '.join(twice)} get one name in ROS, which takes no dash and no digit first: rename one"
        )
    return topics


class Continuity:
    """Follows `session` and `seq` of one stream, as docs/wire-protocol.md says (Reading a stream).

    No single message moves what is known: one that jumps, or begins a session, is held until another comes behind it.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {"groups": 0, "lost": 0, "stale": 0, "dropped": 0, "sessions": 0}
        self._session, self._last, self._ready = "", -1, False
        self._held: list[tuple[dict[str, Any], bytes]] = []
        self._said: tuple[str, int] = "", -1  # session and last_seq of the last info

    def take(self, header: dict[str, Any], payload: bytes = b"") -> list[Taken]:
        """The messages that may be used now, oldest first: this one, the one that it bears out, both or none.

        Each with the messages lost before it, and whether a decoder can take it.
        """
        session, before = header["session"], header["seq"] - 1
        if (session, before + 1) == (self._session, self._last):  # it has come
            self.counts["stale"] += 1
            return []
        taken = [each for each in self._held if self._bears_out(session, before, each[0])]
        self.counts["stale"] += len(self._held) - len(taken)
        last = [(each["session"], each["seq"]) for each, _ in taken] or [(self._session, self._last)]
        goes_on = not self._session or last == [(session, before)]
        self._held = [] if goes_on else [(header, payload)]
        return [(*each, *self._follow(each[0])) for each in (*taken, *((header, payload),) * goes_on)]

    def take_info(self, info: dict[str, Any]) -> list[Taken]:
        """The held message that an info bears out. Counts what was lost with nothing behind, once two infos say so."""
        (session, said), self._said = self._said, (info["session"], info["last_seq"])
        taken = [each for each in self._held if self._bears_out(*self._said, each[0])]
        missing = min(said, self._said[1]) - self._last
        if taken:
            self._held = []
        elif missing > 0 and session == self._said[0] == self._session:
            self.counts["lost"] += missing
            self._last, self._ready = self._last + missing, False
        return [(*each, *self._follow(each[0])) for each in taken]

    def _bears_out(self, session: str, before: int, held: dict[str, Any]) -> bool:
        """Whether what comes after message `before` may follow `held`; a jump says nothing for one that went back."""
        went_back = session == self._session and held["seq"] <= self._last <= before
        return session == held["session"] and held["seq"] <= before and not went_back

    def _follow(self, header: dict[str, Any]) -> tuple[int, bool]:
        if header["session"] != self._session or header["seq"] <= self._last:
            self.counts["sessions"] += header["session"] != self._session
            self._session, self._last, self._ready = header["session"], header["seq"] - 1, False
        lost = header["seq"] - self._last - 1
        self._ready = header["keyframe"] or (self._ready and not lost)
        self._last = header["seq"]
        self.counts["groups"] += 1
        self.counts["lost"] += lost
        self.counts["dropped"] += header["dropped"]
        return lost, self._ready


def stamps_of(header: dict[str, Any], sent: dict[int, int], clock: Sequence[int] | None) -> list[int]:
    """When the frames of a group were taken, ns: the stamps of the camera messages that they were, where the bridge
    has `sent` them; else UTC by the node's `clock` (monotonic, UTC), or as the node says."""
    shift = clock[1] - clock[0] if clock else 0
    return [sent.get(n, taken + shift) for n, taken in zip(header["frame_ids"], header["capture_ns"], strict=True)]


def scale_camera(k: Sequence[float], p: Sequence[float], info: dict[str, Any]) -> tuple[list[float], list[float]]:
    """A camera's K (3x3) and P (3x4), row by row, for the decoded picture that shows it: resized, maybe padded or cut.

    `info` is the stream's, with `source_size`, `source_rect` and `image_size`.
    """
    height, width = info["source_size"]
    top, left, rect_height, rect_width = info.get("source_rect") or (0, 0, *info["image_size"])
    across, down = rect_width / width, rect_height / height

    def scaled(matrix: Sequence[float], columns: int) -> list[float]:
        x, y, last = (list(matrix[columns * row : columns * (row + 1)]) for row in range(3))
        x = [across * value + left * unit for value, unit in zip(x, last, strict=True)]
        y = [down * value + top * unit for value, unit in zip(y, last, strict=True)]
        return [*x, *y, *last]

    return scaled(k, 3), scaled(p, 4)
