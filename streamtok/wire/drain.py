"""The thread that reads one publisher's socket, and gives what comes to `Arrivals`."""

import atexit
import contextlib
import threading
import time
from dataclasses import KW_ONLY, dataclass

import zmq

from streamtok.wire.arrivals import KINDS, QUIET_S, Arrivals
from streamtok.wire.connection import Connection
from streamtok.wire.endpoint import open_socket, receive
from streamtok.wire.intake import Intake, Silence
from streamtok.wire.security import CurveClient

POLL_MS, WAIT_S = 50, 0.005
MESSAGES_PER_POLL = 256
MAX_BACKLOG = 1 << 24  # bytes that were received and not taken yet, besides one message in transit
BUSY = 4  # factor by which patience with a silent node grows while its machine acknowledges packets
MAX_NAMES = 128  # of streams that are subscribed to by name: a node takes more bytes at once for a flood
MOST_ENDING, ENDING_S = 2, 1.0  # readers that were let go and still hold descriptors; how long a new one waits for them
running: set["Drain"] = set()  # whose threads have not ended


@dataclass(eq=False)
class Drain:
    """Reads until `close`, or until the streams have ended (`until_end`), and reconnects to a node that has gone.

    With `lossless` nothing is read while the mailbox of `arrivals` is full. An error ends that mailbox.
    """

    endpoint: str
    arrivals: Arrivals
    _: KW_ONLY
    lossless: bool
    until_end: bool
    curve: CurveClient | None
    high_water: int

    def __post_init__(self) -> None:
        self.mailbox, self.joiner = self.arrivals.mailbox, self.arrivals.joiner
        self._stopping, self._silence = False, Silence()
        self._thread = threading.Thread(target=self._run, name=f"subscribe {self.endpoint}", daemon=True)
        _wait_for_ending()
        try:
            self.connection = self._connect()
            running.add(self)  # before its thread, which may begin to run late
            self._thread.start()
        except BaseException:
            running.discard(self)
            self.joiner.context.destroy(0)
            raise

    def stop(self) -> None:
        """Tell the thread to end, and wait for nothing."""
        self._stopping = True

    def close(self) -> None:
        """Stop reading and end the mailbox; idempotent."""
        self.stop()
        self._thread.join()

    def _connect(self) -> Connection:
        streams, kinds, max_part = self.arrivals.streams, self.arrivals.kinds, self.arrivals.limits.max_part
        socket = open_socket(self.joiner.context, zmq.SUB, self.high_water, max_part)
        socket.set(zmq.SNDHWM, 0)  # libzmq drops subscriptions beyond it
        names = ("",) if streams is None or len(streams) > MAX_NAMES else streams
        for topic in [f"{kind}/{name}" for kind in KINDS if kind in kinds for name in names]:
            socket.subscribe(topic)
        return Connection(socket, self.endpoint, self.curve, Intake(self.lossless, max_part + MAX_BACKLOG))

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._turn()
            self.arrivals.settle()
        except BaseException as error:
            self.mailbox.end(error)
            raise
        finally:
            self.mailbox.end()  # not in `close`: a forked child has the mailbox, perhaps locked, but not this thread
            self.joiner.close()
            self.connection.close()
            self.joiner.context.term()
            self.arrivals.rejects.finish_logs()
            running.discard(self)

    def _turn(self) -> None:
        if full := self.lossless and self.mailbox.full:
            time.sleep(WAIT_S)
            self._silence.restart()
            self.connection.intake.drained = True  # nothing is read now, so the check for faults starts anew
        elif self.connection.socket.poll(POLL_MS):
            self._check_connection()
            if self._silence.end():
                self.arrivals.note_back()
            self._receive()
        elif self._is_silent():
            self._silence.restart()
            self.connection.connect_anew()
        self._check_connection()
        if not full:  # else messages that contradict a held image may wait in the socket
            self.arrivals.settle("frames/", QUIET_S)
        self.arrivals.deliver_joined()
        if self.until_end and self.arrivals.has_ended(self.connection.up):
            self.arrivals.settle()
            self.mailbox.end()

    def _check_connection(self) -> None:
        """Notice a new connection before its first message, which is believed in any case."""
        connected = self.connection.check()
        self.arrivals.waited = self.connection.waited
        if connected:
            self._silence.restart()  # the time without a connection is no silence of the node
            self.arrivals.settle()
            self.arrivals.note_back()

    def _is_silent(self) -> bool:
        """Whether a connected node that has announced streams has sent nothing for too long."""
        # If its machine still acknowledges, the node may just be busy, and a new connection would lose messages.
        silence, patience = self._silence.lasts(), self._silence.patience
        if silence <= patience or not (
            self.connection.up and self.arrivals.infos and self.endpoint.startswith("tcp://")
        ):
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
            self.arrivals.take(parts)


@atexit.register
def _close_all() -> None:
    """Close what was never closed, each although another fails: libzmq's threads must not outlive the program."""
    with contextlib.ExitStack() as closing:
        for drain in tuple(running):
            drain.stop()
            closing.callback(drain.close)


def _wait_for_ending() -> None:
    """Wait while more than a few readers that were let go are ending; without a lock, for any thread may come here."""
    deadline = time.monotonic() + ENDING_S
    while sum(drain._stopping for drain in tuple(running)) > MOST_ENDING and time.monotonic() < deadline:
        time.sleep(0.005)
