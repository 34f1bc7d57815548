"""Turn image messages of recorded drives into items: still images undecoded, video through a decoder per camera."""

import bisect
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from streamtok.drives.clocks import Choice, Timed
from streamtok.drives.item import Item
from streamtok.io.codecs.access_units import AccessUnits
from streamtok.io.codecs.nal_units import HEADER_UNITS, holds_no_picture
from streamtok.io.images.stills import DamagedFrame
from streamtok.io.messages.depth import DepthRange, depth_picture, is_depth
from streamtok.io.messages.image_messages import VIDEO_CODECS, ImageMessage
from streamtok.io.video.video_packets import TELL_LOSSES, Decoded, VideoDecoder
from streamtok.times import GAP_STEPS, LOST_STEPS, TimeJudge

LONGEST_HEADERS = 1 << 20  # bytes of parameter sets and messages kept for a picture
STILL_CODECS = {"jpeg": "jpeg", "jpg": "jpeg", "png": "png", "webp": "webp"}


@dataclasses.dataclass
class _Video:
    """The decoder of one camera's video packets, and the id of its last packet."""

    decoder: VideoDecoder[Item]
    session: str
    judge: TimeJudge
    shuffled: bool
    last_id: int | None = None
    refused: list[Item] = dataclasses.field(default_factory=list)  # packets without a picture, until their turn in time

    def refuse(self, item: Item) -> None:
        """Hold a packet that gives no picture until the pictures shown before it have come out."""
        bisect.insort(self.refused, item._replace(packet=None), key=lambda held: held.capture_ns)

    def finish(self, decoded: Iterable[Decoded[Item]]) -> Iterator[Item]:
        """The items of decoded packets, with those without a picture between them by time."""
        for one in decoded:
            if one.image is None:
                self.refuse(one.key._replace(damage=one.damage))
                continue
            while self.refused and self.refused[0].capture_ns < one.key.capture_ns:
                yield self.refused.pop(0)
            yield one.key._replace(load=hold(one.image), damage="")

    def flush(self) -> Iterator[Item]:
        """The items that the decoder still holds."""
        yield from self.finish(self.decoder.flush())
        yield from self.refused
        self.refused = []

    def misses_some(self, item: Item) -> bool:
        """Whether packets are missing before this one, by its number, or else by its time.

        With B-frames, capture times are not in decoding order, so the log time is used.
        """
        if item.frame_id is None:
            return self.judge.see(*([item.log_ns] if self.shuffled else [item.capture_ns, item.log_ns])).missing > 0
        before, self.last_id = self.last_id, item.frame_id
        return before is not None and item.frame_id != before + 1


class ItemMaker:
    """Makes items of the image messages of several cameras; call `flush` after the last one.

    `depth` are the distances, in metres, between which depth images become pictures (None: they do not).
    """

    def __init__(self, depth: DepthRange | None, find_clock: Callable[[str], Choice]) -> None:
        self._videos: dict[str, _Video] = {}
        self._depth, self._find_clock = depth, find_clock

    def make(self, timed: Timed) -> Iterable[Item]:
        """The items that one message gives: its own, or those of earlier video packets that are decoded now.

        Each `session` of a camera gets a new decoder.
        """
        image, number = timed.image, timed.frame_id
        if image is not None and image.kind != "video":
            return [self._make_still(timed, image)]
        item = Item(timed.stream, timed.time_ns, frame_id=number, damage=timed.error, log_ns=timed.log_ns)
        if image is not None:
            return self._decode(item, image, timed.session)
        if item.stream not in self._videos:
            return [item]
        self._videos[item.stream].refuse(item)
        return []

    def _make_still(self, timed: Timed, image: ImageMessage) -> Item:
        codec = STILL_CODECS.get(image.encoding.lower()) if image.kind == "image" else None
        packet = bytes(image.data) if codec else None
        if packet is not None:
            image = image._replace(data=packet)  # a view would keep its whole chunk in memory
        depth = self._depth if self._depth is not None and is_depth(image.encoding) else None
        load = image.picture if depth is None else functools.partial(depth_picture, image, depth)
        return Item(timed.stream, timed.time_ns, load, timed.frame_id, packet, codec, log_ns=timed.log_ns)

    def flush(self) -> Iterator[Item]:
        """The items that the decoders still hold."""
        for video in self._videos.values():
            yield from video.flush()

    def _decode(self, item: Item, image: ImageMessage, session: str) -> Iterator[Item]:
        video = self._videos.get(item.stream)
        if video is None or video.session != session:
            if video is not None:
                yield from video.flush()
            try:
                decoder = VideoDecoder[Item](image.encoding)
            except DamagedFrame as error:
                yield item._replace(damage=str(error))
                return
            gap_steps = LOST_STEPS if image.encoding in TELL_LOSSES else GAP_STEPS
            clock = self._find_clock(item.stream)
            judge = TimeJudge(clock.uneven or clock.shuffled, clock.steps, gap_steps)
            video = self._videos[item.stream] = _Video(decoder, session, judge, clock.shuffled)
        if video.misses_some(item):
            video.decoder.missing("depends on a picture that was not recorded")
        data = bytes(image.data)
        yield from video.finish(video.decoder.decode(data, item._replace(packet=data, codec=image.encoding)))


def take_header(timed: Timed, headers: dict[str, bytes]) -> Timed | None:
    """A message after the parameter sets that came in messages of their own; None for those, which `headers` keep."""
    image = timed.image
    codec = VIDEO_CODECS.get(image.encoding, "") if image is not None and image.kind == "video" else ""
    if image is None or codec not in HEADER_UNITS:
        return timed
    data, headers[timed.stream] = headers[timed.stream] + bytes(image.data), b""
    if holds_no_picture(codec, data) and len(data) < LONGEST_HEADERS:
        headers[timed.stream] = data
        return None
    return timed._replace(image=image._replace(data=data))


def split_pictures(units: AccessUnits, timed: Timed) -> list[Timed]:
    """The pictures of a message; the first has its time, the others none."""
    image = timed.image
    codec = VIDEO_CODECS.get(image.encoding, "") if image is not None and image.kind == "video" else ""
    if image is None or not codec:
        return [timed]
    first, *others = units.split(codec, bytes(image.data))
    if not others:
        return [timed]
    later = [timed._replace(time_ns=0, frame_id=None, image=image._replace(data=data)) for data in others]
    return [timed._replace(image=image._replace(data=first)), *later]


def hold(image: np.ndarray) -> Callable[[], np.ndarray]:
    """A `load` for an item that is decoded already: `image` is uint8 RGB (H, W, 3)."""
    return lambda: image
