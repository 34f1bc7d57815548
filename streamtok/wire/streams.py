"""A publisher's state of its streams: info, the next `seq`, the current epoch's messages. No sockets, no clock."""

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from streamtok.coding.coder import TokenCoder
from streamtok.preprocessing.pixels import name_encoding
from streamtok.types import Frame, StreamInfo, TokenGroup
from streamtok.wire import compression
from streamtok.wire.coded import GridCoder
from streamtok.wire.control import MAX_EPOCH, MAX_EPOCH_MESSAGES
from streamtok.wire.header import DTYPES, Coding, FrameHeader, Info, TokenHeader
from streamtok.wire.message import Part, compute_checksum, pack

Compression = Literal["none", "zstd", "coded", "independent"]
KEYFRAME_SPACING_NS = 1_000_000_000
_FROM_INFO = ("stream", "session", "tokenizer", "dtype", "levels", "compression")
_FROM_GROUP = ("epoch", "keyframe", "dropped", "repeated", "encode_ns")


def to_info(described: StreamInfo, **more: Any) -> Info:
    """Convert a node's description of a stream to its info; `more` are the publisher's own fields."""
    return msgspec.structs.replace(msgspec.convert(described, Info, from_attributes=True), **more)


@dataclass
class KeyframeGate:
    """Coalesces the keyframe requests of one stream: at most one keyframe a second, which serves all who asked.

    A keyframe restarts every reader's context, so requests of a hundred readers must cost no more than one.
    """

    pending: bool = False
    last_ns: int | None = None

    def ask(self) -> bool:
        """Note a request; returns whether one was pending already."""
        coalesced, self.pending = self.pending, True
        return coalesced

    def take_due(self, now_ns: int) -> bool:
        """Whether to make a keyframe now; if so, the next one is at least a second later."""
        if not self.pending or (self.last_ns is not None and now_ns - self.last_ns < KEYFRAME_SPACING_NS):
            return False
        self.pending, self.last_ns = False, now_ns
        return True


@dataclass
class EpochCache:
    """Caches the messages of one stream since its last keyframe, for late joiners.

    There are none once the epoch has exceeded `max_bytes`, or lacks a message, until the next keyframe.
    """

    max_bytes: int = MAX_EPOCH
    messages: list[list[Part]] = field(default_factory=list)
    nbytes: int = 0

    def add(self, parts: list[Part], keyframe: bool, follows: bool = True) -> None:
        """Cache one sent message; a keyframe clears the cache first. `follows`: none is missing before it."""
        if keyframe:
            self.messages, self.nbytes = [], 0
        self.nbytes += sum(len(part) for part in parts)
        has_room = self.nbytes <= self.max_bytes and len(self.messages) < MAX_EPOCH_MESSAGES
        if has_room and (keyframe or (self.messages and follows)):
            self.messages.append(parts)
        else:
            self.messages = []

    def kept(self) -> list[list[Part]]:
        """The messages, oldest first; raises ValueError if the epoch is not cached."""
        if not self.messages:
            raise ValueError(
                f"the current epoch is not kept: no keyframe has come here yet, or over {self.max_bytes} bytes or "
                f"{MAX_EPOCH_MESSAGES} messages since, or one was lost; ask for a keyframe instead, or set a shorter "
                "keyframe interval on the node"
            )
        return [*self.messages]


@dataclass
class StreamState:
    """The state of one stream; `info` always has its newest epoch and last_seq. A foreign stream is another node's.

    `described` is the description that `info` was made from, None if an info was given. `coder` codes the grids if
    compression is `coded`.
    """

    info: Info
    cache: EpochCache
    foreign: bool = False
    described: StreamInfo | None = None
    coder: GridCoder | None = None
    gate: KeyframeGate = field(default_factory=KeyframeGate)
    counts: Counter = field(default_factory=Counter)

    def pack_group(self, group: TokenGroup, publish_ns: int) -> tuple[TokenHeader, list[Part]]:
        """Make the header and the parts of the next message; raises ValueError if the group does not match the info."""
        payload, coding = self._payload(group)
        header = TokenHeader(
            **{name: getattr(self.info, name) for name in _FROM_INFO},
            **{name: getattr(group, name) for name in _FROM_GROUP},
            seq=self.info.last_seq + 1,
            frame_ids=[int(number) for number in group.frame_ids],
            capture_ns=[int(time_ns) for time_ns in group.capture_ns],
            grid=list(group.tokens.shape),
            image_size=[int(size) for size in group.image_size],
            publish_ns=publish_ns,
            checksum=compute_checksum(payload),
            coding=coding,
            hold=group.hold or UNSET,
        )
        return header, pack(header, payload)

    def pack_frame(self, frame: Frame, session: str, publish_ns: int) -> list[Part]:
        """Make the parts of a camera image: its compressed packet if it has one, else its raw rows."""
        if frame.packet is not None and frame.codec is not None:
            payload, encoding = frame.packet, frame.codec
        else:
            payload, encoding = np.ascontiguousarray(frame.image).tobytes(), name_encoding(frame.image.shape[2])
        header = FrameHeader(
            stream=frame.stream,
            session=session,
            seq=self.counts["frames"],
            frame_id=frame.frame_id,
            capture_ns=frame.capture_ns,
            publish_ns=publish_ns,
            encoding=encoding,
            image_size=list(frame.image.shape[:2]),
            checksum=compute_checksum(payload),
        )
        return pack(header, payload)

    def summary(self) -> dict[str, int]:
        """Counts, the newest epoch and `seq`, and the cached bytes of the epoch."""
        facts = {"epoch": self.info.epoch, "last_seq": self.info.last_seq, "epoch_bytes": self.cache.nbytes}
        return {**self.counts, **facts}

    def note_sent(self, header: TokenHeader, parts: list[Part]) -> None:
        """Note a message that was sent."""
        self.cache.add(parts, header.keyframe, header.seq == self.info.last_seq + 1)
        self.info = msgspec.structs.replace(self.info, epoch=header.epoch, last_seq=header.seq)
        if self.coder is not None:
            self.coder.note_sent()
        self.counts["published"] += 1
        self.counts["bytes"] += sum(len(part) for part in parts)
        if header.keyframe:
            self.counts["keyframes"] += 1
            self.gate.pending = False  # the keyframe serves all who asked

    def _payload(self, group: TokenGroup) -> tuple[bytes, Coding | UnsetType]:
        info, tokens = self.info, group.tokens
        if list(tokens.shape) != info.grid:
            raise ValueError(f"{info.stream}: tokens {list(tokens.shape)}, announced {info.grid}; call add_stream anew")
        if tokens.dtype != DTYPES[info.dtype]:
            raise ValueError(f"{info.stream}: tokens of {tokens.dtype}, announced {info.dtype}")
        if self.coder is not None:
            return self.coder.encode(tokens, group.keyframe)
        payload = np.ascontiguousarray(tokens).tobytes()
        return compression.compress(payload) if info.compression == "zstd" else payload, UNSET


@dataclass
class StreamTable:
    """The streams of one publisher by name.

    `fixed` are the publisher's own info fields. `compression` is that of streams that a node describes; `coded` and
    `independent` (each grid by itself) need `coder`. One thread adds streams and sends; other methods are thread-safe.
    """

    fixed: dict[str, Any]
    max_epoch_bytes: int = MAX_EPOCH
    compression: Compression = "none"
    coder: TokenCoder | None = None
    streams: dict[str, StreamState] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def is_news(self, described: StreamInfo) -> bool:
        """Whether a description differs from what was announced; a stream announced by an info is never news."""
        known = self.streams.get(described.stream)
        if known is None:
            return True
        if known.described is None or known.described is described:
            return False
        changed, known.described = known.described != described, described
        return changed

    def add(self, stream: Info | StreamInfo) -> Info:
        """Add an own stream, or change one; its `seq` continues. Returns its info.

        Raises ImportError if its compression needs a package that is missing, ValueError if it needs a coder.
        """
        described = stream if isinstance(stream, StreamInfo) else None
        sent = "coded" if self.compression == "independent" else self.compression
        info = to_info(stream, compression=sent) if isinstance(stream, StreamInfo) else stream
        compression.check(info.compression)
        known = self.streams.get(info.stream)
        same = known is not None and known.info.tokenizer == info.tokenizer
        coder = known.coder if known and known.coder and same else self._coder_of(info)
        epoch, last_seq = (known.info.epoch, known.info.last_seq) if known else (-1, -1)
        own = {"coder": coder and coder.coder.fingerprint, "epoch": epoch, "last_seq": last_seq, "ended": False}
        state = self._keep(msgspec.structs.replace(info, **own | self.fixed), foreign=False)
        state.described, state.coder = described, coder
        return state.info

    def _coder_of(self, info: Info) -> GridCoder | None:
        """The coder of a stream's grids, None unless its compression is `coded`; ValueError if it has no coder."""
        if info.compression != "coded":
            return None
        if self.coder is None or self.coder.tokenizer != info.tokenizer:
            found = "none" if self.coder is None else f"that of tokenizer {self.coder.tokenizer}"
            raise ValueError(f"{info.stream}: tokenizer {info.tokenizer} needs its own token coder, given is {found}")
        return GridCoder(self.coder, self.compression == "independent")

    def add_foreign(self, info: Info, last_seq: int) -> None:
        """Add or change another node's stream: session, clock and tokenizer stay its own, only `control` is ours."""
        with self._lock:
            known = self.streams.get(info.stream)
            if known is not None and known.info.session != info.session:
                known = self.streams.pop(info.stream) and None
            epoch, last_seq = (known.info.epoch, known.info.last_seq) if known else (-1, last_seq)
            own = {"control": self.fixed["control"], "epoch": epoch, "last_seq": last_seq}
            self._keep(msgspec.structs.replace(info, **own), foreign=True)

    def _keep(self, info: Info, foreign: bool) -> StreamState:
        with self._lock:
            state = self.streams.setdefault(info.stream, StreamState(info, EpochCache(self.max_epoch_bytes), foreign))
            state.info = info
        return state

    def get(self, name: str | None) -> StreamState:
        """The state of a stream; raises ValueError that names the known ones."""
        state = self.streams.get(name or "")
        if state is None:
            raise ValueError(f"stream {name!r} is not announced; there are {', '.join([*self.streams]) or 'none yet'}")
        return state

    def infos(self, names: Iterable[str] | None, pair: tuple[int, int]) -> dict[str, Info]:
        """The infos of the named streams, or of all, with the current clock `pair` (a foreign stream keeps its own)."""
        with self._lock:
            states = {name: self.get(name) for name in (self.streams if names is None else names)}
            return {
                name: state.info if state.foreign else msgspec.structs.replace(state.info, clock=pair)
                for name, state in states.items()
            }

    def summaries(self) -> dict[str, dict[str, int]]:
        """The summary of each stream: counts, the newest epoch and `seq`, and the cached bytes of the epoch."""
        with self._lock:
            return {name: state.summary() for name, state in self.streams.items()}

    def epoch(self, name: str | None) -> list[list[Part]]:
        """The messages of a stream since its last keyframe; raises ValueError if the epoch is not cached."""
        with self._lock:
            return self.get(name).cache.kept()

    def ask_keyframe(self, name: str | None) -> bool:
        """Note a keyframe request; returns whether one was pending already."""
        with self._lock:
            return self.get(name).gate.ask()

    def due_keyframes(self, now_ns: int) -> list[str]:
        """The streams that have to make a keyframe now."""
        with self._lock:
            return [name for name, state in self.streams.items() if state.gate.take_due(now_ns)]

    def note_sent(self, header: TokenHeader, parts: list[Part]) -> None:
        """Note a message that was sent."""
        with self._lock:
            self.get(header.stream).note_sent(header, parts)

    def end(self) -> None:
        """Mark every stream as ended in its info."""
        with self._lock:
            for state in self.streams.values():
                state.info = msgspec.structs.replace(state.info, ended=True)

    def matching(self, kind: str, prefix: bytes) -> list[str]:
        """The streams whose topic `kind/<stream>` begins with a subscription's `prefix`."""
        return [name for name in self.streams if f"{kind}/{name}".encode().startswith(prefix)]
