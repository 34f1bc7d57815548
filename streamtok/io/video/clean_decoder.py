"""Decode compressed video and mark every picture that damage may have touched.

Decoders conceal damage: they go on with pictures that look right and are wrong. Here an error, or a missing packet,
marks every picture that may depend on it, up to the next key frame, with the reason.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import av

from streamtok.io.codecs.av1_headers import CONFIGURATION
from streamtok.io.codecs.nal_units import read_length_size, without_sei
from streamtok.io.codecs.picture_order import Order, follow_order
from streamtok.io.codecs.whole_packets import whole_rule
from streamtok.io.video.damage import BEFORE_KEY, DEPENDS, Checked, Damage, Fed, Loss, ResultQueue
from streamtok.io.video.frame_images import read_orientation
from streamtok.preprocessing.orientation import UPRIGHT, find_orientation

MARKED = "the container marks it as damaged"
UNTIMED = -(1 << 62)  # first of the times made up for packets without any, which match pictures to packets
MOST_PIXELS = 1 << 26
"""The limit for one picture, as sources are not trusted; as for still images (`OPENCV_IO_MAX_IMAGE_PIXELS`)."""
MARK_ERRORS = {"h264", "mpeg1video", "mpeg2video", "tiff"}
"""Decoders that mark or refuse all they conceal; strict flags would only make them refuse unusual side data."""
MARK_KEYS = {"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "vp8", "vp9", "libdav1d", "av1"}
"""Decoders that mark key frames, of streams that may begin at any picture."""
AV1 = ("libdav1d", "av1")  # they also mark a key frame that is shown again; the headers tell which are new
AV1C = b"\x81"  # how extradata of MP4 and Matroska begin
NEW_EXTRADATA = "new_extradata"  # the side data of a packet from which on the stream has other extradata
HAVE_EXIF, LONGEST_EXIF = ("mjpeg",), 1 << 16  # bytes, from the start of the packet


class CleanDecoder:
    """Decodes with a PyAV codec context that is not open yet, and judges what comes out.

    `counted`: presentation times are not known, and a packet's time is its number in decoding order.

    Damage shows in the container's marks, the decoder's errors, packets that are not whole (`whole_rule`) and picture
    numbers that jump (`follow_order`). Dependence ends at a key frame, or where a recovery point of H.264 or H.265 says
    so. In codecs with intra pictures only, no picture depends on another. `unchecked`: changed bytes of AV1 are not
    noticed, as its header breaks the standard and a strict decoder reads nothing.
    """

    def __init__(self, context: Any, counted: bool = False) -> None:
        context.thread_count = 1
        strict = {} if context.name in MARK_ERRORS else {"err_detect": "explode+crccheck"}
        self.unchecked = context.name == "libdav1d" and _breaks_rules(context.extradata or b"")
        if context.name == "libdav1d" and not self.unchecked:
            strict |= {"strict": "1"}  # checks that the symbols end where the data do
        context.options = {"max_pixels": str(MOST_PIXELS), "flags": "+unaligned"} | strict  # unaligned: exact left crop
        self._context, self._counted, self._intra = context, counted, context.codec.intra_only
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
        self._damage = Damage(BEFORE_KEY if self._context.name in MARK_KEYS else "")
        self._queue = ResultQueue(self._counted)
        self._turned = UPRIGHT  # how pictures are stored, by EXIF or by what H.264 said before
        if self._order:
            self._order.restart()

    @property
    def damage(self) -> str:
        """Why pictures are damaged now, up to the next key frame; empty if they are not."""
        return self._damage.reason

    def lose_packets(self, reason: str = DEPENDS) -> None:
        """Report missing packets at this point: pictures up to the next key frame are damaged."""
        self._fed += 1
        self._lose(self._fed, reason=reason)

    def decode(self, packet: Any, marked: bool = False) -> Iterator[Checked]:
        """Feed a packet (None at the end of the stream); yields the results so far, in presentation order.

        `marked`: the container marks the packet as damaged.
        """
        self._fed += 1
        if packet is None or not packet.size:  # as PyAV ends a file
            yield from self._feed(packet)
            yield from self._queue.flush()
            return
        if packet.pts is None:
            packet.pts = UNTIMED + self._fed
        self._queue.expect(packet.pts, Fed(self._fed))
        if extradata := new_extradata(packet):
            self._describe(extradata)
        if marked and _to_time(packet.pts) is None:  # the rest of a picture whose beginning is lost
            yield from self._refuse(MARKED, packet.pts)
        elif self._is_whole is not None and not self._is_whole(bytes(packet)):
            yield from self._refuse("it is cut off, its checksum is wrong, or zeros overwrite it", packet.pts)
        else:
            yield from self._decode_whole(packet, marked)

    def _decode_whole(self, packet: Any, marked: bool) -> Iterator[Checked]:
        """Follow a packet's headers, then give it to the decoder."""
        if packet.is_discard and packet.is_keyframe:  # an edit list starts after it: decoded but not output
            self._damage.pass_key(_to_time(packet.pts), self._fed)
        if marked:
            self._lose(self._fed, packet.pts, MARKED)
        if self._order is not None:
            order = self._order.see(bytes(packet))
            bare = self._without_sei(packet) if order.has_sei else packet
            if order.empty or not bare.size:  # a decoder ignores it, or takes it for the end of the stream
                yield from self._refuse("nothing is in it", packet.pts)
                return
            yield from self._follow(order, packet)
            packet = bare
        yield from self._feed(packet)

    def _feed(self, packet: Any) -> Iterator[Checked]:
        """Give a packet, or None, to the decoder."""
        try:
            frames = self._context.decode(packet)
        except av.FFmpegError as error:
            yield from self._refuse(f"the decoder refuses it: {error.strerror}", None if packet is None else packet.pts)
            return
        for frame in frames:
            if self._context.name in HAVE_EXIF and packet is not None:
                self._turned = find_orientation(bytes(packet)[:LONGEST_EXIF])[0]
            yield from self._take(frame)

    def _follow(self, order: Order, packet: Any) -> Iterator[Checked]:
        """Apply what a packet's headers say before it is decoded; if that resets the decoder, yields what was in it."""
        if order.missing is not None:
            self._lose(self._fed - order.missing)
        if order.recovers and self._damage.reason and self._fed > 1:
            # Without a reset, H.265 refuses pictures that depend on a lost one, and stops verifying checksums.
            with contextlib.suppress(av.FFmpegError):  # refused packets are reported already
                for frame in self._context.decode(None):
                    yield from self._take(frame)
            self._context.flush_buffers()
            if self._context.name == "h264":  # residue of an abandoned block would leak into the next picture
                with contextlib.suppress(av.FFmpegError):
                    self._context.decode(packet)
                self._context.flush_buffers()
        clean_since = None if order.clean_since is None else self._fed - order.clean_since
        if packet.is_discard and clean_since is not None:  # decoded but not output
            self._damage.pass_key(_to_time(packet.pts), clean_since)
            clean_since = None
        self._queue.expect(packet.pts, Fed(self._fed, clean_since, order.stays_turned))

    def _without_sei(self, packet: Any) -> Any:
        bare = av.Packet(without_sei(bytes(packet), self._length_size))
        bare.pts, bare.dts = packet.pts, packet.dts
        if packet.time_base is not None:
            bare.time_base = packet.time_base
        return bare

    def _take(self, frame: Any) -> Iterator[Checked]:
        """Judge a frame that came out; yields what can be shown now."""
        disturbed = bool(self._damage.reason)
        fed, is_new = self._queue.match(frame.pts, Fed(self._fed))
        frame.opaque = [self._orient(frame, fed.stays_turned)]  # a list: PyAV needs a new object
        frame.pts = _to_time(frame.pts)
        checked = Checked(frame, self._judge(frame, fed), disturbed, frame.pts is not None)
        self._queue.show(checked, fed.order, is_new)
        yield from self._queue.release(self._fed)

    def _orient(self, frame: Any, stays_turned: bool | None) -> int:
        """How a frame is stored, 1 to 8, by what it says itself, or what holds since an earlier one said it."""
        if stays_turned is not None:
            self._turned = UPRIGHT
        orientation = read_orientation(frame) if self._turned == UPRIGHT else self._turned
        if stays_turned:
            self._turned = orientation
        return orientation

    def _judge(self, frame: Any, fed: Fed) -> str:
        """Why a frame that came out must not be used, empty if it may be; updates what damages later frames."""
        if frame.is_corrupt:
            self._lose(fed.order, frame.pts)
            return "the decoder marks it as damaged"
        is_key = (frame.key_frame and self._context.name not in AV1) or self._intra
        if fed.clean_since is not None and fed.clean_since < fed.order:
            self._damage.pass_key(None, fed.clean_since)
        elif is_key or fed.clean_since is not None:
            self._damage.pass_key(frame.pts, fed.order)
        return self._damage.judge(frame.pts, fed.order, self._counted)

    def _refuse(self, reason: str, pts: int | None) -> Iterator[Checked]:
        refused = Checked(None, self.damage or reason, True, _to_time(pts) is not None, pts)
        self._lose(self._fed, pts)
        yield from self._queue.refuse(refused, pts, Fed(self._fed))

    def _lose(self, order: int, pts: int | None = None, reason: str = DEPENDS) -> None:
        if self._damage.add(Loss(order, _to_time(pts), reason)):
            self._queue.damage_from(order)


def _breaks_rules(extradata: bytes) -> bool:
    """Whether only strict decoding refuses the sequence header of AV1: for a colour matrix that 4:2:0 cannot have."""
    return _reads_header(extradata, "0") and not _reads_header(extradata, "1")


def _reads_header(extradata: bytes, strict: str) -> bool:
    trial: Any = av.CodecContext.create("libdav1d", "r")
    trial.options, trial.thread_count = {"strict": strict}, 1
    with contextlib.suppress(av.error.InvalidDataError):
        trial.decode(av.Packet(extradata[CONFIGURATION:] if extradata[:1] == AV1C else extradata))
        return True
    return False


def _to_time(pts: int | None) -> int | None:
    """The presentation time, None if it was made up (see UNTIMED)."""
    return None if pts is None or pts < UNTIMED // 2 else pts


def new_extradata(packet: Any) -> bytes | None:
    """The stream's new extradata from this packet on; None if they do not change."""
    return bytes(packet.get_sidedata(NEW_EXTRADATA)) if packet.has_sidedata(NEW_EXTRADATA) else None
