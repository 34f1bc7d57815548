"""Decoding of compressed video that leaves out what damage may have touched.

Decoders conceal damage: they go on with pictures that look right and are not. Here an error, or a missing packet, costs
every picture that may depend on it, up to the next key frame. Each of them is named with its reason.

Decoders give pictures in the order of presentation, and packets come in the order of decoding. A picture depends on
packets before its own alone, so the order of packets decides what damage reaches, however late a picture comes out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import av

from streamtok.io.codecs.nal_units import read_length_size, without_sei
from streamtok.io.codecs.picture_order import Order, follow_order
from streamtok.io.codecs.whole_packets import whole_rule
from streamtok.preprocessing.orientation import find_orientation

DEPENDS = "depends on a damaged picture"
BEFORE_KEY = "before the first key frame"
MARKED = "the container marks it as damaged"
MARKED_BEHIND = 2  # packets that a sign of loss may belong to: the one that comes out, and the one behind it
MOST_WAITING = 64
"""Packets remembered for pictures that have not come out of the decoder yet."""
MOST_REORDERED = 17  # packets that may come before the picture of one is shown, where they have no times
MOST_LOSSES = 64
UNTIMED = -(1 << 62)  # from which on times are counted that are given to packets without any, to know their pictures by
MOST_PIXELS = 1 << 26
"""Of a picture, which a stranger may have made: what a process takes of still images (`OPENCV_IO_MAX_IMAGE_PIXELS`)."""
MARK_ERRORS = {"h264", "mpeg1video", "mpeg2video", "tiff"}
"""Decoders that mark or refuse all they conceal, so they need not refuse what is only unusual beside the pictures."""
MARK_KEYS = {"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "vp8", "vp9", "libdav1d", "av1"}
"""Decoders of streams that may begin anywhere, and that mark key frames."""
AV1 = ("libdav1d", "av1")  # which mark a key frame that is shown again, too; the headers tell which are new
NEW_EXTRADATA = "new_extradata"  # what a packet has beside it from which on its stream is described in another way
HAVE_EXIF, LONGEST_EXIF = ("mjpeg",), 1 << 16  # in bytes, with what comes before it


class Checked(NamedTuple):
    """A frame of PyAV, None where a packet gave none; `damage` says why it must not be used, empty if it may be.

    `disturbed`: pictures before this one may be missing without a word, as decoders drop some after damage.
    `timed`: its packet says when it is shown.
    """

    frame: Any
    damage: str = ""
    disturbed: bool = False
    timed: bool = True


class Loss(NamedTuple):
    """A packet that is lost or damaged: its place in the order of packets, its presentation time, what it costs."""

    order: int
    pts: int | None
    reason: str


class CleanDecoder:
    """Decodes with a codec context of PyAV that is not open yet, and judges what comes out.

    `counted`: times of presentation are not known, and those of packets are their numbers in order of decoding.

    | sign of damage | what it costs |
    | --- | --- |
    | the container marks a packet, or says that some never came (`lose_packets`) | it, and what needs it |
    | the decoder refuses a packet, or marks a picture | it, and what needs it |
    | a packet is cut off or overwritten, which its decoder may not notice (`whole_rule`) | it, and what needs it |
    | H.264, MPEG-2 or AV1 counts on over a picture that is not there (`picture_order`, `shown_order`) | what needs it |
    | a stream of pictures that need others begins without a key frame | all up to one |

    What needs a lost picture ends at a key frame. In H.264 and H.265 that are refreshed bit by bit, it ends where they
    say that all is right again. In codecs of `intra` pictures only, nothing needs another one.
    """

    def __init__(self, context: Any, counted: bool = False) -> None:
        context.thread_count = 1
        strict = {} if context.name in MARK_ERRORS else {"err_detect": "explode+crccheck"}
        context.options = {"max_pixels": str(MOST_PIXELS), "flags": "+unaligned"} | strict  # cut at the left, too
        self._context = context
        self._intra, self._counted = context.codec.intra_only, counted
        self._describe(context.extradata)
        self.restart()

    def _describe(self, extradata: bytes | None) -> None:
        """Note what describes the packets from here on."""
        name = self._context.name
        self._is_whole = whole_rule(name, extradata)
        self._length_size = read_length_size(name, extradata)
        self._order = follow_order(name, extradata, bool(self._context.has_b_frames))

    def restart(self) -> None:
        """Begin anew, for packets from another place of the stream; the context has been flushed."""
        self._fed = 0
        self._orders: dict[int, int] = {}  # by presentation time, of packets whose pictures have not come out
        self._told: dict[int, int] = {}  # the same of packets refused: a frame of theirs may come all the same
        self._shown = 0  # presentation time of the last frame that came out
        self._held: list[tuple[Checked, int]] = []  # frames that came out, with their orders
        self._losses = [Loss(0, None, BEFORE_KEY)] if self._context.name in MARK_KEYS else []
        self._key: tuple[int | None, int] = None, 0  # presentation time and order of the last one that came out
        self._clean_since: dict[int | None, int] = {}  # orders by presentation time: see `Order`
        if self._order:
            self._order.restart()

    @property
    def damage(self) -> str:
        """Why pictures are left out now, up to the next key frame; empty where none are."""
        return self._losses[0].reason if self._losses else ""

    def lose_packets(self, reason: str = DEPENDS) -> None:
        """Say that packets are missing here: pictures up to the next key frame are left out."""
        self._fed += 1
        self._lose(Loss(self._fed, None, reason))

    def decode(self, packet: Any, marked: bool = False) -> Iterator[Checked]:
        """What comes out for a packet (None at the end of the stream), in presentation order.

        `marked`: the container says that damage touched the packet.
        """
        if packet is not None and packet.size and packet.pts is None:
            packet.pts = UNTIMED + self._fed
        pts = None if packet is None else packet.pts
        self._feed(pts)
        if packet is not None and packet.size:
            if extradata := new_extradata(packet):
                self._describe(extradata)
            if refusal := self._refusal(packet, marked):
                yield self._refused(refusal, pts)
                return
            if packet.is_discard and packet.is_keyframe:  # a clip cut behind it: it is decoded and does not come out
                self._pass_key(pts, self._fed)
            if marked:
                self._lose(Loss(self._fed, pts, MARKED))
            if self._order is not None:
                order = self._order.see(bytes(packet))
                bare = self._without_sei(packet) if order.has_sei else packet
                if order.empty or not bare.size:  # a decoder takes it without a word, or for the end
                    yield self._refused("nothing is in it", pts)
                    return
                yield from self._follow(order, packet)
                packet = bare
        try:
            frames = self._context.decode(packet)
        except av.FFmpegError as error:
            yield self._refused(f"the decoder refuses it: {error.strerror}", pts)
            return
        for frame in frames:
            if self._context.name in HAVE_EXIF and packet is not None:
                frame.opaque = [find_orientation(bytes(packet)[:LONGEST_EXIF])[0]]  # PyAV needs an object of each frame
            yield from self._take(frame)
        if packet is None or not packet.size:  # as PyAV ends a file
            yield from self._release(everything=True)

    def _refusal(self, packet: Any, marked: bool) -> str:
        """Why a packet is not given to the decoder; empty if it is."""
        if marked and _to_time(packet.pts) is None:  # the rest of a picture that lost its beginning
            return MARKED
        whole = self._is_whole is None or self._is_whole(bytes(packet))
        return "" if whole else "it is cut off, its checksum is wrong, or zeros overwrite it"

    def _take(self, frame: Any) -> Iterator[Checked]:
        """Judge a frame that came out; gives it, and those held before it, once nothing can be said against them.

        A decoder marks a picture when it comes out, which may be after pictures that need it.
        """
        disturbed, order = bool(self._losses), self._fed
        key = frame.pts
        frame.pts = _to_time(key)
        if key is not None:
            order = self._orders.pop(key, self._told.get(key, order))
            self._shown = self._shown if frame.pts is None else frame.pts
        damage = self._judge(frame, order, self._clean_since.pop(key, None))  # also where it is told already
        if key is None or key not in self._told:
            self._held.append((Checked(frame, damage, disturbed, frame.pts is not None), order))
        yield from self._release()

    def _release(self, everything: bool = False) -> Iterator[Checked]:
        """The frames held before which nothing was decoded that is still to be shown."""
        late = self._fed - MOST_REORDERED
        waiting = (n for pts, n in self._orders.items() if (n > late if self._counted else pts > self._shown))
        first = min(waiting, default=self._fed + 1)
        while self._held and (everything or self._held[0][1] < first):
            yield self._held.pop(0)[0]

    def _feed(self, pts: int | None) -> None:
        self._fed += 1
        self._remember(self._orders, pts)

    def _remember(self, orders: dict[int, int], pts: int | None) -> None:
        if pts is not None:
            orders[pts] = self._fed
        if len(orders) > MOST_WAITING:
            del orders[next(iter(orders))]

    def _follow(self, order: Order, packet: Any) -> Iterator[Checked]:
        """Note what a packet says before it is decoded; gives what is left where the decoder starts anew."""
        if order.missing is not None:
            self._lose(Loss(self._fed - order.missing, None, DEPENDS))
        if order.recovers and self._losses and self._fed > 1:
            # H.265 refuses what needs a lost picture, and compares no more checksums.
            with contextlib.suppress(av.FFmpegError):  # what was refused is told already
                for frame in self._context.decode(None):
                    yield from self._take(frame)
            self._context.flush_buffers()
            if self._context.name == "h264":  # it adds what it read of a block that it gave up to the next picture
                with contextlib.suppress(av.FFmpegError):
                    self._context.decode(packet)
                self._context.flush_buffers()
        if order.clean_since is not None:
            self._clean_since[packet.pts] = self._fed - order.clean_since
            if packet.is_discard:  # decoded and not shown: it does not come out
                self._pass_key(packet.pts, self._clean_since.pop(packet.pts))

    def _without_sei(self, packet: Any) -> Any:
        bare = av.Packet(without_sei(bytes(packet), self._length_size))
        bare.pts, bare.dts = packet.pts, packet.dts
        if packet.time_base is not None:
            bare.time_base = packet.time_base
        return bare

    def _refused(self, reason: str, pts: int | None) -> Checked:
        refused = Checked(None, self.damage or reason, True, _to_time(pts) is not None)
        self._remember(self._told, pts)
        if pts is not None:
            self._orders.pop(pts, None)
        self._lose(Loss(self._fed, pts, DEPENDS))
        return refused

    def _lose(self, loss: Loss) -> None:
        loss = loss._replace(pts=_to_time(loss.pts))
        if not _reaches_behind(loss, *self._key):
            return
        self._held = [
            (one._replace(damage=one.damage or DEPENDS) if order >= loss.order else one, order)
            for one, order in self._held
        ]
        self._losses.append(loss)
        if len(self._losses) > MOST_LOSSES:  # the first says what is damaged, the last when that ends
            del self._losses[1]

    def _judge(self, frame: Any, order: int, clean_since: int | None) -> str:
        """Why a frame that came out must not be used; empty if it may be. Later ones depend on it."""
        if frame.is_corrupt:
            self._lose(Loss(order, frame.pts, DEPENDS))
            return "the decoder marks it as damaged"
        if clean_since is not None and clean_since < order:
            self._pass_key(None, clean_since)
        elif (frame.key_frame and self._context.name not in AV1) or self._intra or clean_since == order:
            self._pass_key(frame.pts, order)
        key_pts, key_order = self._key
        timed = frame.pts is not None and key_pts is not None
        if timed and order < key_order and (self._counted or frame.pts > key_pts):
            return DEPENDS  # it came before the key frame that it follows
        return next((loss.reason for loss in self._losses if loss.order <= order), "")

    def _pass_key(self, pts: int | None, order: int) -> None:
        """Pictures from here on need none that came before `order`."""
        self._key = _to_time(pts), order
        self._losses = [loss for loss in self._losses if _reaches_behind(loss, *self._key)]


def _to_time(pts: int | None) -> int | None:
    """A time of presentation, None for one that was given to a packet without any."""
    return None if pts is None or pts < UNTIMED // 2 else pts


def _reaches_behind(loss: Loss, pts: int | None, order: int) -> bool:
    """Whether a loss may touch a key frame, given by `pts` and `order`, or pictures shown after it."""
    shown_before = loss.pts is not None and pts is not None and loss.pts < pts
    return loss.order >= order and not shown_before


def new_extradata(packet: Any) -> bytes | None:
    """The extradata of a stream from a packet on; None where they stay as they are."""
    return bytes(packet.get_sidedata(NEW_EXTRADATA)) if packet.has_sidedata(NEW_EXTRADATA) else None
