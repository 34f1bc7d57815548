"""Rate control: keep messages within a bitrate, by cheaper tokens first and then by fewer frames.

No sockets, no clock: a budget is told what was sent, and says how to encode the next group.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

MOST_HOLD = 0.5  # levels; more costs much and saves little (docs/narrow-link.md)
FEWEST = 1 / 16  # the least share of frames that are encoded, whatever a budget asks
PROPORTIONAL, INTEGRAL = 3.0, 0.8  # effort per s of debt, and per s of debt and s: settles in 5 s without ringing
MOST_DEBT_S, MOST_CREDIT_S = 4.0, 1.0
AVERAGE_S = 10.0
QUIET_S = 5.0  # without messages, after which a stream of a rig counts as stopped
STEPS = 64  # values of a margin, each exact in float32


@dataclass
class Meter:
    """Measures the bits sent per second of capture time."""

    bits: int = 0
    seconds: float = 0.0
    _late_bits: float = 0.0  # both with exponential decay, time constant AVERAGE_S
    _late_seconds: float = 0.0

    def note(self, bits: int, seconds: float) -> None:
        """Add bits that were sent `seconds` after the ones before."""
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
        """Bits per second, averaged over about AVERAGE_S."""
        return self._late_bits / self._late_seconds if self._late_seconds else 0.0


@dataclass
class ByteBudget:
    """Keeps messages at `bitrate` bits per second of capture time.

    A leaky bucket drains at the bitrate and fills with what is sent. `debt` is the time, s, that it takes to drain;
    negative is credit. A PI controller turns it into `effort`: up to 1 the encoder holds levels within a growing
    margin, beyond 1 it also drops frames. Without levels to hold (`holds` False) effort is at least 1.
    """

    bitrate: int
    holds: bool = True
    debt: float = 0.0
    sent: Meter = field(default_factory=Meter)
    _lasting: float = 0.0  # the controller's integral term

    def note(self, nbytes: int, seconds: float) -> None:
        """Add a message of `nbytes`, sent `seconds` of capture time after the one before it (0: the first)."""
        bits = 8 * nbytes
        self.sent.note(bits, seconds)
        self.debt = min(max(self.debt + bits / self.bitrate - seconds, -MOST_CREDIT_S), MOST_DEBT_S)
        self._lasting = self._bound(self._lasting + INTEGRAL * self.debt * seconds)

    @property
    def effort(self) -> float:
        """From 0 (1 if not `holds`) to 1 / FEWEST."""
        return self._bound(self._lasting + PROPORTIONAL * self.debt)

    def _bound(self, effort: float) -> float:
        return min(max(effort, 0.0 if self.holds else 1.0), 1 / FEWEST)


class RigBudget:
    """One budget for several streams, all at the same effort: a stream that needs more bits gets more.

    Streams have clocks of their own, so with n running streams, a second of one drains the bucket by 1 / n seconds.
    """

    def __init__(self, bitrate: int, holds: bool):
        self.budget = ByteBudget(bitrate, holds)
        self._quiet_s: dict[object, float] = {}

    def note(self, stream: object, nbytes: int, seconds: float) -> None:
        """Add a message of a stream (any key), sent `seconds` of its capture time after its message before."""
        self._quiet_s[stream] = 0.0
        part = seconds / sum(quiet < QUIET_S for quiet in self._quiet_s.values())
        self.budget.note(nbytes, part)
        self._quiet_s = {name: quiet + part * (name is not stream) for name, quiet in self._quiet_s.items()}

    def forget(self, stream: object) -> None:
        """Remove a stream that has ended."""
        self._quiet_s.pop(stream, None)


class StreamBudget:
    """The rate control of one stream: the margin `hold` for levels in its next group, and the share of frames `kept`.

    Without a budget these are `most_hold` and 1. With one of its `own` and one that a `rig` shares, the stream follows
    the one that asks for more effort. `spent` measures its messages. `noise_db` is the cost of holding in its last
    group, `mean_noise_db` and `mean_hold` (levels) are over all groups.
    """

    def __init__(self, most_hold: float = 0.0, bitrate: int | None = None):
        self.most_hold = self.hold = most_hold
        self.own = None if bitrate is None else ByteBudget(bitrate, most_hold > 0)
        self.rig: RigBudget | None = None
        self.spent = Meter()
        self.noise_db = self.mean_hold = self.mean_noise_db = 0.0
        self._groups, self._skipped = 0, 0.0
        self._sent_ns: int | None = None
        self._follow()

    def share(self, rig: RigBudget) -> None:
        """Also keep to a budget that is shared with other streams."""
        self.rig = rig
        self._follow()

    def note(self, nbytes: int, now_ns: int) -> None:
        """Add a message of `nbytes`, with pictures up to the capture time `now_ns`."""
        seconds = 0.0 if self._sent_ns is None else max(0, now_ns - self._sent_ns) / 1e9
        self._sent_ns = now_ns
        self.spent.note(8 * nbytes, seconds)
        if self.own is not None:
            self.own.note(nbytes, seconds)
        if self.rig is not None:
            self.rig.note(self, nbytes, seconds)
        self._follow()

    def end(self) -> None:
        """Note that the stream has ended for now: others may use its share."""
        if self.rig is not None:
            self.rig.forget(self)

    def note_cost(self, margin: float, noise_db: float) -> None:
        """Note a group's margin, in levels, and the rise of its quantization noise over plain rounding, dB."""
        self._groups, self.noise_db = self._groups + 1, noise_db
        self.mean_hold += (margin - self.mean_hold) / self._groups
        self.mean_noise_db += (noise_db - self.mean_noise_db) / self._groups

    def leaves_out(self) -> bool:
        """Whether to drop the next frame; the frames that stay are spaced evenly."""
        self._skipped += 1 - self.kept
        if self._skipped < 1:
            return False
        self._skipped -= 1
        return True

    @property
    def budgets(self) -> Sequence[ByteBudget]:
        """The budgets that the stream keeps to: none, its own, the rig's, or both."""
        shared = None if self.rig is None else self.rig.budget
        return [budget for budget in (self.own, shared) if budget is not None]

    @property
    def kept(self) -> float:
        """The share of frames to encode, 1 down to FEWEST."""
        return 1 / max(1.0, self._effort)

    @property
    def _effort(self) -> float:
        return max((budget.effort for budget in self.budgets), default=1.0)

    def _follow(self) -> None:
        if self.budgets:
            self.hold = math.floor(STEPS * self.most_hold * min(self._effort, 1.0)) / STEPS


def share_budget(bitrate: int, streams: Sequence[StreamBudget]) -> None:
    """Give the streams one common budget of `bitrate` bits per second."""
    rig = RigBudget(bitrate, any(stream.most_hold for stream in streams))
    for stream in streams:
        stream.share(rig)
