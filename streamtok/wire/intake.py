"""Judges a reader's connection by the kernel's TCP state, and decides how long a silent node is waited for."""

import math
import time
from dataclasses import dataclass, field
from typing import Literal

from streamtok.wire.tcp import RESETS, Link, LinkState, find_link

LOOK_S = 0.05  # between two checks
ANSWER_MS = 2000  # within which a reachable host has acknowledged a keep-alive probe
RESET_S = 1.2  # if nothing comes for so long after a dropped packet, it was a reset, since info comes each second
SILENT_S = 2.5  # if nothing comes for so long, not even info, the link is down or the node is busy
LONGEST_GAP_S = 10.0
PATIENCE = 3.0  # patience as a multiple of the longest recent gap: a node may be busy for many seconds with a step
FORGOTTEN = 0.95  # factor by which the longest gap decays with each message


@dataclass
class Intake:
    """Finds faults of the current connection. TCP on Linux only; elsewhere it finds none.

    Set `drained` when all messages were taken. With `holds` the reader may pause, resets are hidden from libzmq (see
    `tcp`), and a connection that was reset is at fault. Otherwise the queue is unlimited, and a connection that brings
    more than `most` bytes before it is drained again is at fault.
    """

    holds: bool = False
    most: float = math.inf
    drained: bool = True
    _link: Link | None = None
    _base: LinkState | None = None
    _base_at: float = 0.0
    _look_due: float = 0.0

    def watch(self, descriptor: int) -> None:
        """Watch a new connection, by libzmq's descriptor."""
        self._link, self._base, self.drained, self._look_due = find_link(descriptor), None, True, 0.0
        if self._link is not None and self.holds:
            self._link.drop(RESETS)

    def leave(self) -> None:
        """Stop watching the connection, which is given up."""
        self._link = None

    def answers(self) -> bool:
        """Whether the node's machine acknowledges packets: the link is up, however busy the node is."""
        state = None if self._link is None else self._link.look()
        return state is not None and not state.closed and state.silent_ms < ANSWER_MS

    def judge(self) -> Literal["reset", "overrun"] | None:
        """The connection's fault, None if it has none; it is checked every LOOK_S."""
        now = time.monotonic()
        if self._link is None or now < self._look_due:
            return None
        self._look_due, state = now + LOOK_S, self._link.look()
        if state is None:
            self._link = None
            return None
        if self.holds and self._base is None and state.closed:
            return "reset"  # it was reset before it was shielded
        if self._base is None or self.drained:
            self._base, self._base_at, self.drained = state, now, False
            return None
        if self.holds:
            return "reset" if state.dropped > self._base.dropped and now - self._base_at > RESET_S else None
        return "overrun" if state.received - self._base.received > self.most else None


@dataclass
class Silence:
    """Measures how long nothing has come (s) since `heard`, a monotonic time; beyond `patience` s it is an outage."""

    heard: float = field(default_factory=time.monotonic)
    _longest: float = 0.0  # the longest recent gap, decaying

    @property
    def patience(self) -> float:
        return max(SILENT_S, PATIENCE * self._longest)

    def lasts(self) -> float:
        """Seconds since the last message."""
        return time.monotonic() - self.heard

    def restart(self) -> None:
        """Count from now, since messages were not read for a while, or another connection is tried."""
        self.heard = time.monotonic()

    def end(self) -> bool:
        """Note that a message has come; returns whether the gap before it was an outage."""
        gap, patience = self.lasts(), self.patience
        self._longest = max(min(gap, LONGEST_GAP_S), FORGOTTEN * self._longest)
        self.restart()
        return gap > patience
