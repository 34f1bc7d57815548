"""What a reader's connection brings, as the kernel tells it, and how long its silence is borne."""

import math
import time
from dataclasses import dataclass, field
from typing import Literal

from streamtok.wire.tcp import RESETS, Link, LinkState, find_link

LOOK_S = 0.05  # between looks
ANSWER_MS = 2000  # within which a host that is there has acknowledged a keep-alive probe
RESET_S = 1.2  # without a message, which info brings each second, after a packet was dropped: it was a reset
SILENT_S = 2.5  # without a message or info, which comes every second: the link is down, or the node is busy
LONGEST_GAP_S = 10.0
PATIENCE = 3.0  # times the longest gap of late: a node may be busy with a step of many seconds
FORGOTTEN = 0.95  # of that gap remains after another one


@dataclass
class Intake:
    """Judges one connection after another. TCP on Linux only: elsewhere no fault is found.

    Set `drained` when all messages were taken. With `holds` whoever reads may stop for a while (`tcp` says what that
    takes): a connection that was reset is at fault. Else its queue has no limit: one that brings more than `most`
    bytes before it is drained again is at fault.
    """

    holds: bool = False
    most: float = math.inf
    drained: bool = True
    _link: Link | None = None
    _base: LinkState | None = None
    _base_at: float = 0.0
    _look_due: float = 0.0

    def watch(self, descriptor: int) -> None:
        """Turn to a new connection, by libzmq's descriptor."""
        self._link, self._base, self.drained, self._look_due = find_link(descriptor), None, True, 0.0
        if self._link is not None and self.holds:
            self._link.drop(RESETS)

    def leave(self) -> None:
        """Turn away from a connection that is given up."""
        self._link = None

    def answers(self) -> bool:
        """Whether the node's machine acknowledges what it is asked: the link is up, however busy the node may be."""
        state = None if self._link is None else self._link.look()
        return state is not None and not state.closed and state.silent_ms < ANSWER_MS

    def judge(self) -> Literal["reset", "overrun"] | None:
        """The connection's fault, if it has one; it is looked at every LOOK_S."""
        now = time.monotonic()
        if self._link is None or now < self._look_due:
            return None
        self._look_due, state = now + LOOK_S, self._link.look()
        if state is None:
            self._link = None
            return None
        if self.holds and self._base is None and state.closed:
            return "reset"  # before it was shielded
        if self._base is None or self.drained:
            self._base, self._base_at, self.drained = state, now, False
            return None
        if self.holds:
            return "reset" if state.dropped > self._base.dropped and now - self._base_at > RESET_S else None
        return "overrun" if state.received - self._base.received > self.most else None


@dataclass
class Silence:
    """How long nothing has come, and how long that is borne: `patience` s. `heard` is a monotonic time."""

    heard: float = field(default_factory=time.monotonic)
    _longest: float = 0.0  # gap of late

    @property
    def patience(self) -> float:
        return max(SILENT_S, PATIENCE * self._longest)

    def lasts(self) -> float:
        """For how long, s."""
        return time.monotonic() - self.heard

    def restart(self) -> None:
        """Count anew: what has come is not known, or another connection is tried."""
        self.heard = time.monotonic()

    def end(self) -> bool:
        """Something has come; returns whether that was an outage."""
        gap, patience = self.lasts(), self.patience
        self._longest = max(min(gap, LONGEST_GAP_S), FORGOTTEN * self._longest)
        self.restart()
        return gap > patience
