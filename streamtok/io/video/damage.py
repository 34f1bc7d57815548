"""Which pictures damage may have touched, and when they may be shown.

Packets come in decoding order, pictures come out in presentation order. A picture depends only on packets before its
own, so the order of packets decides which pictures damage reaches, however late they come out.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

DEPENDS = "depends on a damaged picture"
BEFORE_KEY = "before the first key frame"
MOST_WAITING = 64  # packets remembered whose pictures have not come out of the decoder yet
MOST_REORDERED = 17  # packets that may lie between a packet and the output of its picture, if they have no times
MOST_LOSSES = 64


class Checked(NamedTuple):
    """A PyAV frame, None if a packet gave none; `damage` says why it must not be used, empty if it may be used.

    `frame.opaque`: the orientation, 1 to 8, that it is stored in. `disturbed`: pictures before this one may be missing
    unreported, as decoders drop some after damage. `timed`: its packet has a presentation time. `pts`: that of a packet
    which gave no frame.
    """

    frame: Any
    damage: str = ""
    disturbed: bool = False
    timed: bool = True
    pts: int | None = None


class Fed(NamedTuple):
    """A packet given to the decoder: its number in decoding order, its "order", and what its headers said (`Order`).

    `clean_since` is an order here.
    """

    order: int
    clean_since: int | None = None
    stays_turned: bool | None = None


class Loss(NamedTuple):
    """A lost or damaged packet: its order, its presentation time, the reason for later pictures."""

    order: int
    pts: int | None
    reason: str

    def reaches(self, pts: int | None, order: int) -> bool:
        """Whether it may affect a key frame of this time and order, or pictures shown after that."""
        shown_before = self.pts is not None and pts is not None and self.pts < pts
        return self.order >= order and not shown_before


class Damage:
    """The losses that no key frame has ended yet, and the pictures that they may have touched."""

    def __init__(self, reason: str = "") -> None:
        self._losses = [Loss(0, None, reason)] if reason else []
        self._key: tuple[int | None, int] = None, 0  # time and order of the last key frame that came out

    @property
    def reason(self) -> str:
        """Why pictures are damaged now; empty if they are not."""
        return self._losses[0].reason if self._losses else ""

    def add(self, loss: Loss) -> bool:
        """Add a loss; False if a key frame has ended it already."""
        if not loss.reaches(*self._key):
            return False
        self._losses.append(loss)
        if len(self._losses) > MOST_LOSSES:  # the first gives the reason, the last the end of the damage
            del self._losses[1]
        return True

    def pass_key(self, pts: int | None, order: int) -> None:
        """Note that pictures from here on depend on no packet before `order`."""
        self._key = pts, order
        self._losses = [loss for loss in self._losses if loss.reaches(pts, order)]

    def judge(self, pts: int | None, order: int, counted: bool) -> str:
        """Why a picture is damaged; empty if it is not."""
        key_pts, key_order = self._key
        if pts is not None and key_pts is not None and order < key_order and (counted or pts > key_pts):
            return DEPENDS  # shown after a key frame but decoded before it
        return next((loss.reason for loss in self._losses if loss.order <= order), "")


class ResultQueue:
    """Holds results until no later one can show that they are damaged, and gives them in order of presentation.

    A decoder marks a damaged picture when it comes out, which may be after pictures that depend on it. `counted`: times
    are orders.
    """

    def __init__(self, counted: bool) -> None:
        self._counted = counted
        self._awaited: dict[int, Fed] = {}  # by presentation time: packets whose pictures have not come out
        self._refused: dict[int, Fed] = {}  # the same, of which the result is reported: a frame may still come
        self._shown = 0  # presentation time of the last frame that came out
        self._held: list[tuple[Checked, int]] = []  # with orders
        self._unplaced: list[tuple[Checked, int]] = []  # refused, with orders: they take their place by order alone

    def expect(self, pts: int, fed: Fed) -> None:
        """Note a packet that is given to the decoder, or what its headers say."""
        _remember(self._awaited, pts, fed)

    def refuse(self, one: Checked, pts: int | None, fed: Fed) -> Iterator[Checked]:
        """Add the result of a packet that gives no frame; yields it if it can be placed by its time."""
        if pts is not None:
            _remember(self._refused, pts, self._awaited.pop(pts, fed))
        if one.timed and not self._counted:
            yield one
        else:
            self._unplaced.append((one, fed.order))

    def match(self, pts: int | None, latest: Fed) -> tuple[Fed, bool]:
        """The packet of a frame that came out, and whether its result is still to be reported."""
        if pts is None:
            return latest, True
        refused = self._refused.get(pts)
        return self._awaited.pop(pts, refused or latest), refused is None

    def show(self, one: Checked, order: int, is_new: bool) -> None:
        """Take a frame that came out, and keep it if it `is_new`: pictures of packets before it have come out, too."""
        self._shown = one.frame.pts if one.timed else self._shown
        self._held += [refused for refused in self._unplaced if refused[1] < order]
        self._unplaced = [refused for refused in self._unplaced if refused[1] >= order]
        self._held += [(one, order)] if is_new else []

    def damage_from(self, order: int) -> None:
        """Mark the held pictures from an order on as damaged."""
        self._held = [(one._replace(damage=one.damage or DEPENDS) if n >= order else one, n) for one, n in self._held]

    def release(self, latest: int) -> Iterator[Checked]:
        """The held results that precede, in decoding order, every packet whose picture is still to come out."""
        if self._counted:
            waiting = [fed.order for fed in self._awaited.values() if fed.order > latest - MOST_REORDERED]
        else:
            waiting = [fed.order for pts, fed in self._awaited.items() if pts > self._shown]
        first = min(waiting, default=latest + 1)
        while self._held and self._held[0][1] < first:
            yield self._held.pop(0)[0]

    def flush(self) -> Iterator[Checked]:
        """All that is left, at the end of the stream."""
        yield from (one for one, _ in [*self._held, *self._unplaced])
        self._held, self._unplaced = [], []


def _remember(packets: dict[int, Fed], pts: int, fed: Fed) -> None:
    packets[pts] = fed
    if len(packets) > MOST_WAITING:
        del packets[next(iter(packets))]
