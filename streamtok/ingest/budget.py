"""A byte budget: what a stream's messages may take, held by cheaper tokens first and then by fewer frames.

No sockets, no clock: it is told what was sent, and says how the next group is to be encoded.
"""

import math
from dataclasses import dataclass

MOST_HOLD = 0.5  # levels; more costs much and saves little (docs/narrow-link.md)
FEWEST = 1 / 16  # of the frames, that are encoded whatever a budget asks
PROPORTIONAL, INTEGRAL = 3.0, 0.8  # per second of debt, and of it per second: settles in about 5 s without ringing
MOST_DEBT_S, MOST_CREDIT_S = 4.0, 1.0
AVERAGE_S = 10.0
STEPS = 64  # of a margin, each exact in float32


@dataclass
class ByteBudget:
    """Holds a stream at `bitrate` bits per second of capture time.

    A bucket drains at the bitrate and fills with what is sent; `debt` is how many seconds it takes to drain (less than
    0: so much was saved). A proportional and integral controller turns it into `effort`: up to 1 the encoder holds
    levels within a growing margin, up to `most_hold`; beyond 1 it leaves out frames. `sent` is the rate that was sent,
    averaged over AVERAGE_S.
    """

    bitrate: int
    most_hold: float = MOST_HOLD
    debt: float = 0.0
    effort: float = 0.0
    sent: float = 0.0
    _skipped: float = 0.0

    def note(self, nbytes: int, seconds: float) -> None:
        """A message of `nbytes` was sent, `seconds` of capture time after the one before it (0: there was none)."""
        before, bits = self.debt, 8 * nbytes
        self.debt = min(max(before + bits / self.bitrate - seconds, -MOST_CREDIT_S), MOST_DEBT_S)
        push = PROPORTIONAL * (self.debt - before) + INTEGRAL * self.debt * seconds
        self.effort = min(max(self.effort + push, 0.0), self._free + 1 / FEWEST - 1)
        if seconds > 1e-6:
            share = 1 - math.exp(-seconds / AVERAGE_S) if self.sent else 1.0
            self.sent += share * (bits / seconds - self.sent)

    @property
    def hold(self) -> float:
        """The margin of the next group, 0 to `most_hold`."""
        return math.floor(STEPS * self.most_hold * min(self.effort, 1.0)) / STEPS

    @property
    def share(self) -> float:
        """Of the frames, that are to be encoded: 1 down to FEWEST."""
        return 1 / (1 + max(0.0, self.effort - self._free))

    def leaves_out(self) -> bool:
        """Whether the next frame is left out, so that the others are spread evenly."""
        self._skipped += 1 - self.share
        if self._skipped < 1:
            return False
        self._skipped -= 1
        return True

    @property
    def _free(self) -> float:
        """The effort that costs no frames."""
        return 1.0 if self.most_hold else 0.0
