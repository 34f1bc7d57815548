"""The thread that reads one publisher's socket: it checks messages, follows sessions, and fills a mailbox."""

import threading
import time
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Literal

import zmq

from streamtok.coding.library import Coders
from streamtok.wire.coded import GridReader
from streamtok.wire.connection import Connection
from streamtok.wire.endpoint import open_socket, receive
from streamtok.wire.errors import Rejects, WireError
from streamtok.wire.header import Info, Limits
from streamtok.wire.intake import Intake, Silence
from streamtok.wire.joining import Joiner
from streamtok.wire.mailbox import Mailbox
from streamtok.wire.message import FrameMessage, Part, TokenMessage, check_tokens, unpack_frame, unpack_info
from streamtok.wire.security import CurveClient
from streamtok.wire.tracking import Believer, Claim, Endings, StreamTracker

POLL_MS, WAIT_S = 50, 0.005
MESSAGES_PER_POLL = 256
MAX_BACKLOG = 1 << 24  # bytes that were received and not taken yet, besides one message in transit
BUSY = 4  # factor by which patience with a silent node grows while its machine acknowledges packets
MAX_NAMES = 128  # of streams that are subscribed to by name: a node takes more bytes at once for a flood
QUIET_S = 0.5  # after which a held camera image is taken, since no info confirms images
BACK_S = 5.0  # how long after an outage a jump of `seq` is attributed to it
Kind = Literal["frames", "tokens", "info"]
Message = TokenMessage | Info | FrameMessage
# Subscribed in this order: frames before tokens, for which nodes wait to send; info last, to prove that all is there.
KINDS: tuple[Kind, ...] = ("frames", "tokens", "info")
running: set["Drain"] = set()  # whose threads have not ended


@dataclass(eq=False)
class Drain:
    """Reads until `close`, or until the streams have ended (`until_end`). `Subscription` describes the options.

    `mailbox` gets every valid message of the streams and sessions that are read, none twice. `received` has the
    continuity and loss counts of each stream, `infos` its newest info. An error ends the mailbox.
    """

    endpoint: str
    mailbox: Mailbox[TokenMessage | FrameMessage]
    _: KW_ONLY
    streams: frozenset[str] | None
    kinds: frozenset[Kind]
    join: Literal["keyframe", "epoch", "never"]
    lossless: bool
    until_end: bool
    curve: CurveClient | None
    limits: Limits
    high_water: int
    max_streams: int
    coders: Coders
    rejects: Rejects = field(default_factory=Rejects)
    infos: dict[str, Info] = field(default_factory=dict)
    received: dict[str, StreamTracker] = field(default_factory=dict)

    def __post_init__(self) -> None:
        takers = {"frames": self._take_frame, "tokens": self._take_tokens, "info": self._take_info}
        self._takers = {kind.encode(): take for kind, take in takers.items() if kind in self.kinds}
        self._believers: dict[str, Believer[Message]] = {}
        self._grids: dict[str, list[int]] = {}
        self.grids = GridReader(self.coders)
        self._back_until, self._silence, self._endings = 0.0, Silence(), Endings()
        self.stopping, self._info_changed = False, threading.Condition()
        self._context = zmq.Context()
        self.joiner = Joiner(self._context, self.endpoint, self.rejects, self.limits, self.mailbox.capacity, self.curve)
        self._thread = threading.Thread(target=self._run, name=f"subscribe {self.endpoint}", daemon=True)
        try:
            self.connection = self._connect()
            running.add(self)  # before its thread, which may begin to run late
            self._thread.start()
        except BaseException:
            running.discard(self)
            self._context.destroy(0)
            raise

    def wait_for_info(self, stream: str, timeout: float) -> Info | None:
        """The newest info of a stream, after waiting for one for up to `timeout` seconds; None if none came."""
        with self._info_changed:
            self._info_changed.wait_for(lambda: stream in self.infos, timeout)
            return self.infos.get(stream)

    def stop(self) -> None:
        """Tell the thread to end, and wait for nothing."""
        self.stopping = True

    def close(self) -> None:
        """Stop reading and end the mailbox; idempotent."""
        self.stop()
        self._thread.join()

    def take(self, parts: Sequence[Part]) -> None:
        """Check and dispatch one message; one that breaks the protocol is counted and dropped."""
        kind, _, name = bytes(parts[0][:80]).partition(b"/")
        take = self._takers.get(kind)
        if take is None or (self.streams is not None and name.decode("ascii", "replace") not in self.streams):
            return
        try:
            take(parts)
        except WireError as error:
            self.rejects.add("subscribe", error)

    def _connect(self) -> Connection:
        socket = open_socket(self._context, zmq.SUB, self.high_water, self.limits.max_part)
        socket.set(zmq.SNDHWM, 0)  # libzmq drops subscriptions beyond it
        names = ("",) if self.streams is None or len(self.streams) > MAX_NAMES else self.streams
        for topic in [f"{kind}/{name}" for kind in KINDS if kind in self.kinds for name in names]:
            socket.subscribe(topic)
        return Connection(socket, self.endpoint, self.curve, Intake(self.lossless, self.limits.max_part + MAX_BACKLOG))

    def _run(self) -> None:
        try:
            while not self.stopping:
                self._turn()
            self._settle()
        except BaseException as error:
            self.mailbox.end(error)
            raise
        finally:
            self.joiner.close()
            self.connection.close()
            self._context.term()
            self.rejects.finish_logs()
            running.discard(self)
            self.mailbox.end()  # not in `close`: a forked child has the mailbox, perhaps locked, but not this thread

    def _turn(self) -> None:
        if full := self.lossless and self.mailbox.full:
            time.sleep(WAIT_S)
            self._silence.restart()
            self.connection.intake.drained = True  # nothing is read now, so the check for faults starts anew
        elif self.connection.socket.poll(POLL_MS):
            self._check_connection()
            if self._silence.end():
                self._note_back()
            self._receive()
        elif self._is_silent():
            self._silence.restart()
            self.connection.connect_anew()
        self._check_connection()
        if not full:  # else messages that contradict a held image may wait in the socket
            self._settle("frames/", QUIET_S)
        for stream, messages in self.joiner.take_ready():
            self._accept_epoch(stream, messages)
        if self.until_end and self._has_ended():
            self._settle()
            self.mailbox.end()

    def _check_connection(self) -> None:
        """Notice a new connection before its first message, which is believed in any case."""
        if self.connection.check():
            self._silence.restart()  # the time without a connection is no silence of the node
            self._settle()
            self._note_back()

    def _note_back(self) -> None:
        """Note the end of an outage: believe the next message of each stream, and ask for missed ones."""
        self._back_until = time.monotonic() + BACK_S
        for believer in self._believers.values():
            believer.connected_anew = True

    def _is_silent(self) -> bool:
        """Whether a connected node that has announced streams has sent nothing for too long."""
        # If its machine still acknowledges, the node may just be busy, and a new connection would lose messages.
        silence, patience = self._silence.lasts(), self._silence.patience
        if silence <= patience or not (self.connection.up and self.infos and self.endpoint.startswith("tcp://")):
            return False
        return silence > BUSY * patience or not self.connection.intake.answers()

    def _receive(self) -> None:
        for _ in range(MESSAGES_PER_POLL):
            if self.joiner.full or (self.lossless and self.mailbox.full):
                return
            try:
                parts = receive(self.connection.socket)
            except zmq.Again:
                self.connection.intake.drained = True
                return
            self.take(parts)

    def _has_ended(self) -> bool:
        """Whether nothing more will come; while a node is connected, all named streams are waited for."""
        names = self.infos.keys() if self.streams is None or not self.connection.up else self.streams
        ended = all(self._endings.has_ended(name, self.connection.up) for name in names)
        return bool(self.infos) and ended and not self.joiner.waiting

    def _take_frame(self, parts: Sequence[Part]) -> None:
        message = unpack_frame(parts, self.limits)
        self._weigh(Claim(message.header.session, message.header.seq - 1, message.header.seq, message))

    def _take_tokens(self, parts: Sequence[Part]) -> None:
        message = check_tokens(parts, self.limits, self._grids_of(parts))
        header = message.header
        self._weigh(Claim(header.session, header.seq - 1, header.seq, message, header.epoch, header.keyframe))
        self._endings.note(message.stream, False)

    def _grids_of(self, parts: Sequence[Part]) -> Sequence[list[int]] | None:
        """The grids a stream may send: its infos' (also held ones'), the previous message's; None before an info."""
        stream = bytes(parts[0][7:80]).decode("ascii", "replace")
        if (info := self.infos.get(stream)) is None:
            return None
        held = [claim.item.grid for claim in self._believers[stream].held if isinstance(claim.item, Info)]
        return info.grid, self._grids.get(stream, info.grid), *held

    def _take_info(self, parts: Sequence[Part]) -> None:
        info = unpack_info(parts, self.limits)
        self._weigh(Claim(info.session, info.last_seq, info.last_seq, info, None if info.epoch < 0 else info.epoch))
        self._endings.note(info.stream, info.ended)
        if info.session == self._believers[info.stream].session:
            self._note_info(info)

    def _weigh(self, claim: Claim[Message]) -> None:
        """Believe a message or info, or hold it until another one confirms it."""
        stream = claim.item.stream
        kind = "frames/" if isinstance(claim.item, FrameMessage) else ""  # images have their own `seq`
        self._tracker_of(stream)
        believer = self._believers.setdefault(kind + stream, Believer(any_session=bool(kind)))
        dropped, session, last = believer.dropped, believer.session, believer.last
        believed = believer.take(claim)  # only the first may jump, a second one follows it
        jumps = any(each.session == session and each.before > last for each in believed[:1]) and not kind
        # After an outage, the current epoch contains the messages that a jump skipped, or begins after them.
        missed = jumps and self.join != "never" and time.monotonic() < self._back_until
        if missed and stream not in self.joiner.waiting:  # else the messages held back so far would be dropped
            self.joiner.begin(stream)
        for each in believed:
            self._believe(each)
        for _ in range(believer.dropped - dropped):
            self.rejects.add("subscribe", WireError("order", f"{stream}: a session, seq or epoch that none bore out"))

    def _settle(self, kind: str = "", held_s: float = 0.0) -> None:
        found = [believer for name, believer in self._believers.items() if name.startswith(kind)]
        for believed in [claim for believer in found for claim in believer.settle(held_s)]:
            self._believe(believed)

    def _believe(self, claim: Claim[Message]) -> None:
        message = claim.item
        if isinstance(message, FrameMessage):
            self.mailbox.put(f"frames/{message.stream}", message)
            return
        if claim.anew:
            self.received[message.stream].begin(claim.session)
            if self.join == "epoch" or (self.join == "keyframe" and self.connection.waited):
                self.joiner.begin(message.stream)
        if isinstance(message, Info):
            self._note_info(message)
            if message.stream not in self.joiner.waiting or message.last_seq < 0:
                self.received[message.stream].take_info(message)
            return
        message = replace(message, info=self.infos.get(message.stream))  # the newest info may change until it is read
        if not self.joiner.hold(message):
            self._accept(message)

    def _note_info(self, info: Info) -> None:
        with self._info_changed:
            self.infos[info.stream] = info
            self._info_changed.notify_all()
        self.joiner.ask(info)

    def _tracker_of(self, stream: str) -> StreamTracker:
        if stream not in self.received and len(self.received) >= self.max_streams:
            raise WireError("streams", f"stream {stream!r} beyond the {self.max_streams} accepted (max_streams)")
        return self.received.setdefault(stream, StreamTracker())

    def _accept_epoch(self, stream: str, messages: list[TokenMessage]) -> None:
        """Deliver a fetched epoch and the live messages held back, which may be older, in order and once each."""
        for message in sorted(messages, key=lambda message: message.header.seq):
            self.received[stream].fetched = message.header.seq
            self._accept(message, extra=True)

    def _accept(self, message: TokenMessage, extra: bool = False) -> None:
        stream, verdict = message.stream, self.received[message.stream].take_message(message.header)
        if verdict is None:
            return
        try:
            self.mailbox.put(stream, self.grids.read(message, verdict.decodable), extra)
            self._grids[stream] = message.header.grid
        except WireError as error:
            self.grids.unreadable[stream] += 1
            self.rejects.add("subscribe", error)
