"""Byte budgets: what messages may take, held by cheaper tokens first and then by fewer frames.

No sockets, no clock: they are told what was sent, and say how the next group is to be encoded.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

MOST_HOLD = 0.5  # levels; more costs much and saves little (docs/narrow-link.md)
FEWEST = 1 / 16  # of the frames, that are encoded whatever a budget asks
PROPORTIONAL, INTEGRAL = 3.0, 0.8  # per second of debt, and of it per second: settles in about 5 s without ringing
MOST_DEBT_S, MOST_CREDIT_S = 4.0, 1.0
AVERAGE_S = 10.0
QUIET_S = 5.0  # after which a stream of a rig is taken to have stopped
STEPS = 64  # of a margin, each exact in float32


@dataclass
class Meter:
    """Bits that were sent, over seconds of capture time."""

    bits: int = 0
    seconds: float = 0.0
    _late_bits: float = 0.0  # of both, what is left once they fade within AVERAGE_S
    _late_seconds: float = 0.0

    def note(self, bits: int, seconds: float) -> None:
        """Note that so many bits were sent, and that seconds have gone by since the last ones."""
        self.bits += bits
        self.seconds += seconds
        kept = math.exp(-seconds / AVERAGE_S)
        self._late_bits, self._late_seconds = kept * self._late_bits + bits, kept * self._late_seconds + seconds

    @property
    def mean(self) -> float:
        """Bits per second since the first message; 0 before the second."""
        return self.bits / self.seconds if self.seconds else 0.0

    @property
    def recent(self) -> float:
        """Bits per second, averaged over AVERAGE_S."""
        return self._late_bits / self._late_seconds if self._late_seconds else 0.0


@dataclass
class ByteBudget:
    """Holds messages at `bitrate` bits per second of capture time.

    A bucket drains at the bitrate and fills with what is sent. `debt` is how many seconds it takes to drain; below 0,
    so much was saved. A proportional and integral controller turns it into `effort`: up to 1 the encoder holds levels
    within a growing margin, beyond 1 it leaves out frames. With nothing to hold (`holds`) it begins at 1.
    """

    bitrate: int
    holds: bool = True
    debt: float = 0.0
    sent: Meter = field(default_factory=Meter)
    _lasting: float = 0.0  # the effort that what has been sent so far asks for

    def note(self, nbytes: int, seconds: float) -> None:
        """A message of `nbytes` was sent, `seconds` of capture time after the one before it (0: there was none)."""
        bits = 8 * nbytes
        self.sent.note(bits, seconds)
        self.debt = min(max(self.debt + bits / self.bitrate - seconds, -MOST_CREDIT_S), MOST_DEBT_S)
        self._lasting = self._bound(self._lasting + INTEGRAL * self.debt * seconds)

    @property
    def effort(self) -> float:
        """0 or 1 to 1 / FEWEST."""
        return self._bound(self._lasting + PROPORTIONAL * self.debt)

    def _bound(self, effort: float) -> float:
        return min(max(effort, 0.0 if self.holds else 1.0), 1 / FEWEST)


class RigBudget:
    """One budget for several streams, all at the same effort: who needs more bits gets them.

    Streams have clocks of their own, so a second of each of n that are running drains an nth of a second.
    """

    def __init__(self, bitrate: int, holds: bool):
        self.budget = ByteBudget(bitrate, holds)
        self._quiet_s: dict[object, float] = {}

    def note(self, stream: object, nbytes: int, seconds: float) -> None:
        """A stream, by any name, has sent a message, `seconds` of its time after the one before it."""
        self._quiet_s[stream] = 0.0
        part = seconds / sum(quiet < QUIET_S for quiet in self._quiet_s.values())
        self.budget.note(nbytes, part)
        self._quiet_s = {name: quiet + part * (name is not stream) for name, quiet in self._quiet_s.items()}

    def forget(self, stream: object) -> None:
        """A stream has ended."""
        self._quiet_s.pop(stream, None)


class StreamBudget:
    """What one stream spends: its next group keeps levels within `hold`, and of its frames a share is `kept`.

    Without a budget that is `most_hold` and all. With one of its `own`, or of the `rig` that it shares with others, it
    follows the budget that asks for more effort. `spent` counts its messages; `noise_db` is what holding cost its last
    group.
    """

    def __init__(self, most_hold: float = 0.0, bitrate: int | None = None):
        self.most_hold = self.hold = most_hold
        self.own = None if bitrate is None else ByteBudget(bitrate, most_hold > 0)
        self.rig: RigBudget | None = None
        self.spent, self.noise_db = Meter(), 0.0
        self._groups, self._margins, self._noises = 0, 0.0, 0.0
        self._skipped = 0.0
        self._sent_ns: int | None = None
        self._follow()

    def share(self, rig: RigBudget) -> None:
        """Keep to a budget that others keep to as well."""
        self.rig = rig
        self._follow()

    def note(self, nbytes: int, now_ns: int) -> None:
        """A message of `nbytes` was sent, of pictures up to this capture time."""
        seconds = 0.0 if self._sent_ns is None else max(0, now_ns - self._sent_ns) / 1e9
        self._sent_ns = now_ns
        self.spent.note(8 * nbytes, seconds)
        if self.own is not None:
            self.own.note(nbytes, seconds)
        if self.rig is not None:
            self.rig.note(self, nbytes, seconds)
        self._follow()

    def end(self) -> None:
        """Nothing will be sent, as far as is known: others may have what it took."""
        if self.rig is not None:
            self.rig.forget(self)

    def note_cost(self, margin: float, noise_db: float) -> None:
        """A group was encoded within this margin; its levels differ from the latent by so many dB more than rounded
        ones."""
        self.noise_db = noise_db
        self._groups, self._margins, self._noises = self._groups + 1, self._margins + margin, self._noises + noise_db

    def leaves_out(self) -> bool:
        """Whether the next frame is left out, so that the others are spread evenly."""
        self._skipped += 1 - self.kept
        if self._skipped < 1:
            return False
        self._skipped -= 1
        return True

    @property
    def budgets(self) -> Sequence[ByteBudget]:
        """The budgets that a stream keeps to."""
        shared = None if self.rig is None else self.rig.budget
        return [budget for budget in (self.own, shared) if budget is not None]

    @property
    def kept(self) -> float:
        """The share of frames that are to be encoded, 1 down to FEWEST."""
        return 1 / max(1.0, self._effort)

    @property
    def mean_hold(self) -> float:
        """The margin of all its groups."""
        return self._margins / max(1, self._groups)

    @property
    def mean_noise_db(self) -> float:
        """What holding cost all its groups."""
        return self._noises / max(1, self._groups)

    @property
    def _effort(self) -> float:
        return max((budget.effort for budget in self.budgets), default=1.0)

    def _follow(self) -> None:
        if self.budgets:
            self.hold = math.floor(STEPS * self.most_hold * min(self._effort, 1.0)) / STEPS


def share_budget(bitrate: int, streams: Sequence[StreamBudget]) -> None:
    """Hold all of them together at `bitrate` bits per second."""
    rig = RigBudget(bitrate, any(stream.most_hold for stream in streams))
    for stream in streams:
        stream.share(rig)
