"""Decode compressed video and mark every picture that damage may have touched.

Decoders conceal damage: they go on with pictures that look right and are wrong. Here an error, or a missing packet,
marks every picture that may depend on it, up to the next key frame, with the reason.

Packets come in decoding order, pictures come out in presentation order. A picture depends only on packets before its
own, so the order of packets decides which pictures damage reaches, however late they come out.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import av

from streamtok.io.codecs.nal_units import read_length_size, without_sei
from streamtok.io.codecs.picture_order import Order, follow_order
from streamtok.io.codecs.whole_packets import whole_rule
from streamtok.io.video.frame_images import read_orientation
from streamtok.preprocessing.orientation import UPRIGHT, find_orientation

DEPENDS = "depends on a damaged picture"
BEFORE_KEY = "before the first key frame"
MARKED = "the container marks it as damaged"
MOST_WAITING = 64
"""Packets remembered whose pictures have not come out of the decoder yet."""
MOST_REORDERED = 17  # packets that may lie between a packet and the output of its picture, if they have no times
MOST_LOSSES = 64
UNTIMED = -(1 << 62)  # first of the times made up for packets without any, which match pictures to packets
MOST_PIXELS = 1 << 26
"""The limit for one picture, as sources are not trusted; as for still images (`OPENCV_IO_MAX_IMAGE_PIXELS`)."""
MARK_ERRORS = {"h264", "mpeg1video", "mpeg2video", "tiff"}
"""Decoders that mark or refuse all they conceal; strict flags would only make them refuse unusual side data."""
MARK_KEYS = {"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "vp8", "vp9", "libdav1d", "av1"}
"""Decoders that mark key frames, of streams that may begin at any picture."""
AV1 = ("libdav1d", "av1")  # they also mark a key frame that is shown again; the headers tell which are new
NEW_EXTRADATA = "new_extradata"  # the side data of a packet from which on the stream has other extradata
HAVE_EXIF, LONGEST_EXIF = ("mjpeg",), 1 << 16  # bytes, from the start of the packet


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


class Loss(NamedTuple):
    """A lost or damaged packet: its number in decoding order, its presentation time, the reason for later pictures."""

    order: int
    pts: int | None
    reason: str


class CleanDecoder:
    """Decodes with a PyAV codec context that is not open yet, and judges what comes out.

    `counted`: presentation times are not known, and a packet's time is its number in decoding order.

    | sign of damage | damaged pictures |
    | --- | --- |
    | the container marks a packet, or reports missing ones (`lose_packets`) | its own and dependent ones |
    | the decoder refuses a packet, or marks a picture | its own and dependent ones |
    | a packet is truncated or overwritten, unnoticed by its decoder (`whole_rule`) | its own and dependent ones |
    | picture numbers of H.264, MPEG-2 or AV1 jump (`picture_order`, `shown_order`) | those that depend on the gap |
    | a stream with inter prediction begins without a key frame | all up to a key frame |

    Dependence ends at a key frame. With gradual refresh (H.264, H.265) it ends where a recovery point says so. In
    codecs with intra pictures only, no picture depends on another.
    """

    def __init__(self, context: Any, counted: bool = False) -> None:
        context.thread_count = 1
        strict = {} if context.name in MARK_ERRORS else {"err_detect": "explode+crccheck"}
        strict |= {"strict": "1"} if context.name == "libdav1d" else {}  # checks that the symbols end where the data do
        context.options = {"max_pixels": str(MOST_PIXELS), "flags": "+unaligned"} | strict  # unaligned: exact left crop
        self._context = context
        self._intra, self._counted = context.codec.intra_only, counted
        self._describe(context.extradata)
        self.restart()

    def _describe(self, extradata: bytes | None) -> None:
        """Set up the checks for packets with this extradata."""
        name = self._context.name
        self._is_whole = whole_rule(name, extradata)
        self._length_size = read_length_size(name, extradata)
        self._order = follow_order(name, extradata, bool(self._context.has_b_frames))

    def restart(self) -> None:
        """Start over for packets from another place of the stream; the caller has flushed the context."""
        self._fed = 0  # packets so far: the number of one is its "order"
        self._orders: dict[int, int] = {}  # presentation time -> order of packets whose pictures have not come out
        self._reported: dict[int, int] = {}  # the same for refused packets, reported already: a frame may still come
        self._shown = 0  # presentation time of the last frame that came out
        self._held: list[tuple[Checked, int]] = []  # frames that came out but may still prove damaged, with orders
        self._unplaced: list[tuple[Checked, int]] = []  # refused, with orders: they take their place by order alone
        self._losses = [Loss(0, None, BEFORE_KEY)] if self._context.name in MARK_KEYS else []
        self._key: tuple[int | None, int] = None, 0  # presentation time and order of the last one that came out
        self._clean_since: dict[int | None, int] = {}  # orders by presentation time: see `Order`
        self._stays_turned: dict[int | None, bool] = {}  # by presentation time, too
        self._turned = UPRIGHT  # how pictures are stored, by EXIF or by what H.264 said before
        if self._order:
            self._order.restart()

    @property
    def damage(self) -> str:
        """Why pictures are damaged now, up to the next key frame; empty if they are not."""
        return self._losses[0].reason if self._losses else ""

    def lose_packets(self, reason: str = DEPENDS) -> None:
        """Report missing packets at this point: pictures up to the next key frame are damaged."""
        self._fed += 1
        self._lose(Loss(self._fed, None, reason))

    def decode(self, packet: Any, marked: bool = False) -> Iterator[Checked]:
        """Feed a packet (None at the end of the stream); yields the results so far, in presentation order.

        `marked`: the container marks the packet as damaged.
        """
        if packet is not None and packet.size and packet.pts is None:
            packet.pts = UNTIMED + self._fed
        pts = None if packet is None else packet.pts
        self._fed += 1
        self._remember(self._orders, pts)
        if packet is not None and packet.size:
            if extradata := new_extradata(packet):
                self._describe(extradata)
            if refusal := self._refusal(packet, marked):
                yield from self._refuse(refusal, pts)
                return
            if packet.is_discard and packet.is_keyframe:  # an edit list starts after it: decoded but not output
                self._pass_key(pts, self._fed)
            if marked:
                self._lose(Loss(self._fed, pts, MARKED))
            if self._order is not None:
                order = self._order.see(bytes(packet))
                bare = self._without_sei(packet) if order.has_sei else packet
                if order.empty or not bare.size:  # a decoder ignores it, or takes it for the end of the stream
                    yield from self._refuse("nothing is in it", pts)
                    return
                yield from self._follow(order, packet)
                packet = bare
        try:
            frames = self._context.decode(packet)
        except av.FFmpegError as error:
            yield from self._refuse(f"the decoder refuses it: {error.strerror}", pts)
            return
        for frame in frames:
            if self._context.name in HAVE_EXIF and packet is not None:
                self._turned = find_orientation(bytes(packet)[:LONGEST_EXIF])[0]
            yield from self._take(frame)
        if packet is None or not packet.size:  # as PyAV ends a file
            self._place_refused(self._fed + 1)
            yield from self._release(everything=True)

    def _refusal(self, packet: Any, marked: bool) -> str:
        """Why a packet is not given to the decoder; empty if it is given."""
        if marked and _to_time(packet.pts) is None:  # the rest of a picture whose beginning is lost
            return MARKED
        whole = self._is_whole is None or self._is_whole(bytes(packet))
        return "" if whole else "it is cut off, its checksum is wrong, or zeros overwrite it"

    def _take(self, frame: Any) -> Iterator[Checked]:
        """Judge a frame that came out; yields frames once no later frame can show that they are damaged.

        A decoder marks a damaged picture when it comes out, which may be after pictures that depend on it.
        """
        disturbed, order = bool(self._losses), self._fed
        key = frame.pts
        stays_turned = self._stays_turned.pop(key, None)
        self._turned = self._turned if stays_turned is None else UPRIGHT
        orientation = read_orientation(frame) if self._turned == UPRIGHT else self._turned
        self._turned = orientation if stays_turned else self._turned
        frame.opaque = [orientation]  # a list: PyAV needs a new object
        frame.pts = _to_time(key)
        if key is not None:
            order = self._orders.pop(key, self._reported.get(key, order))
            self._shown = self._shown if frame.pts is None else frame.pts
        damage = self._judge(frame, order, self._clean_since.pop(key, None))  # also if it was reported already
        self._place_refused(order)
        if key is None or key not in self._reported:
            self._held.append((Checked(frame, damage, disturbed, frame.pts is not None), order))
        yield from self._release()

    def _place_refused(self, order: int) -> None:
        """Hold the unplaced ones before the frame of this order: the pictures decoded before them have come out."""
        self._held += [one for one in self._unplaced if one[1] < order]
        self._unplaced = [one for one in self._unplaced if one[1] >= order]

    def _release(self, everything: bool = False) -> Iterator[Checked]:
        """The held frames that precede, in decoding order, every packet whose picture is still to come out."""
        late = self._fed - MOST_REORDERED
        waiting = (n for pts, n in self._orders.items() if (n > late if self._counted else pts > self._shown))
        first = min(waiting, default=self._fed + 1)
        while self._held and (everything or self._held[0][1] < first):
            yield self._held.pop(0)[0]

    def _remember(self, orders: dict[int, int], pts: int | None) -> None:
        if pts is not None:
            orders[pts] = self._fed
        if len(orders) > MOST_WAITING:
            del orders[next(iter(orders))]

    def _follow(self, order: Order, packet: Any) -> Iterator[Checked]:
        """Apply a packet's `order` before it is decoded; if the decoder is reset, yields the frames left in it."""
        if order.missing is not None:
            self._lose(Loss(self._fed - order.missing, None, DEPENDS))
        if order.recovers and self._losses and self._fed > 1:
            # Without a reset, H.265 refuses pictures that depend on a lost one, and stops verifying checksums.
            with contextlib.suppress(av.FFmpegError):  # refused packets are reported already
                for frame in self._context.decode(None):
                    yield from self._take(frame)
            self._context.flush_buffers()
            if self._context.name == "h264":  # residue of an abandoned block would leak into the next picture
                with contextlib.suppress(av.FFmpegError):
                    self._context.decode(packet)
                self._context.flush_buffers()
        if order.stays_turned is not None:
            self._stays_turned[packet.pts] = order.stays_turned
        if order.clean_since is not None:
            self._clean_since[packet.pts] = self._fed - order.clean_since
            if packet.is_discard:  # decoded but not output
                self._pass_key(packet.pts, self._clean_since.pop(packet.pts))

    def _without_sei(self, packet: Any) -> Any:
        bare = av.Packet(without_sei(bytes(packet), self._length_size))
        bare.pts, bare.dts = packet.pts, packet.dts
        if packet.time_base is not None:
            bare.time_base = packet.time_base
        return bare

    def _refuse(self, reason: str, pts: int | None) -> Iterator[Checked]:
        refused = Checked(None, self.damage or reason, True, _to_time(pts) is not None, pts)
        self._remember(self._reported, pts)
        if pts is not None:
            self._orders.pop(pts, None)
        self._lose(Loss(self._fed, pts, DEPENDS))
        if refused.timed and not self._counted:
            yield refused
        else:
            self._unplaced.append((refused, self._fed))

    def _lose(self, loss: Loss) -> None:
        loss = loss._replace(pts=_to_time(loss.pts))
        if not _reaches_behind(loss, *self._key):
            return
        self._held = [
            (one._replace(damage=one.damage or DEPENDS) if order >= loss.order else one, order)
            for one, order in self._held
        ]
        self._losses.append(loss)
        if len(self._losses) > MOST_LOSSES:  # the first gives the reason, the last the end of the damage
            del self._losses[1]

    def _judge(self, frame: Any, order: int, clean_since: int | None) -> str:
        """Why a frame that came out must not be used, empty if it may be; updates what damages later frames."""
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
            return DEPENDS  # shown after a key frame but decoded before it
        return next((loss.reason for loss in self._losses if loss.order <= order), "")

    def _pass_key(self, pts: int | None, order: int) -> None:
        """Note that pictures from here on depend on no packet before `order`."""
        self._key = _to_time(pts), order
        self._losses = [loss for loss in self._losses if _reaches_behind(loss, *self._key)]


def _to_time(pts: int | None) -> int | None:
    """The presentation time, None if it was made up (see UNTIMED)."""
    return None if pts is None or pts < UNTIMED // 2 else pts


def _reaches_behind(loss: Loss, pts: int | None, order: int) -> bool:
    """Whether a loss may affect a key frame, given by `pts` and `order`, or pictures shown after it."""
    shown_before = loss.pts is not None and pts is not None and loss.pts < pts
    return loss.order >= order and not shown_before


def new_extradata(packet: Any) -> bytes | None:
    """The stream's new extradata from this packet on; None if they do not change."""
    return bytes(packet.get_sidedata(NEW_EXTRADATA)) if packet.has_sidedata(NEW_EXTRADATA) else None
