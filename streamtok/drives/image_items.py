"""Image messages of recorded drives as items: still images as they are, video through a decoder for each camera."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from streamtok.drives.drive import Item
from streamtok.io.image_messages import DamagedFrame, ImageMessage, is_whole_jpeg
from streamtok.io.video_packets import Decoded, VideoDecoder
from streamtok.preprocessing.pixels import RawImage

STILL_CODECS = {"jpeg": "jpeg", "jpg": "jpeg", "png": "png", "webp": "webp"}


@dataclass
class _Video:
    """The decoder of one camera's video packets, and the last frame id it was given."""

    decoder: VideoDecoder
    session: str
    last_id: int | None = None


class ItemMaker:
    """Makes items of the image messages of several cameras; call `flush` after the last one."""

    def __init__(self) -> None:
        self._videos: dict[str, _Video] = {}

    def make(self, item: Item, image: ImageMessage, session: str = "") -> Iterator[Item]:
        """What comes of one message: `item` with its picture, or the items of earlier packets that are decoded now.

        `item` says whose the image is and when it was taken. A camera's decoder starts anew with each `session`.
        """
        if image.kind == "video":
            yield from self._decode(item, image, session)
            return
        codec = STILL_CODECS.get(image.encoding.lower()) if image.kind == "image" else None
        packet = bytes(image.data) if codec else None
        yield item._replace(load=lambda: _load_picture(image), packet=packet, codec=codec)

    def flush(self) -> Iterator[Item]:
        """The items that the decoders still hold."""
        for video in self._videos.values():
            yield from _finish_items(video.decoder.flush())

    def _decode(self, item: Item, image: ImageMessage, session: str) -> Iterator[Item]:
        video = self._videos.get(item.stream)
        if video is None or video.session != session:
            if video is not None:
                yield from _finish_items(video.decoder.flush())
            try:
                video = self._videos[item.stream] = _Video(VideoDecoder(image.encoding), session)
            except DamagedFrame as error:
                yield item._replace(load=fail_with(str(error)))
                return
        if item.frame_id is not None:
            if video.last_id is not None and item.frame_id != video.last_id + 1:
                video.decoder.missing("depends on a picture that was not recorded")
            video.last_id = item.frame_id
        data = bytes(image.data)
        yield from _finish_items(video.decoder.decode(data, item._replace(packet=data, codec=image.encoding)))


def _load_picture(image: ImageMessage) -> np.ndarray | RawImage:
    if image.kind == "image" and not is_whole_jpeg(image.data):
        raise DamagedFrame("a JPEG that is cut off")
    return image.picture()


def fail_with(text: str) -> Callable[[], np.ndarray]:
    """A `load` that says why there is no picture."""

    def load() -> np.ndarray:
        raise DamagedFrame(text)

    return load


def _finish_items(decoded: Iterable[Decoded]) -> Iterator[Item]:
    """The items that a VideoDecoder was given as keys, with their pictures."""
    for one in decoded:
        yield one.key._replace(load=fail_with(one.damage) if one.image is None else hold(one.image))


def hold(image: np.ndarray) -> Callable[[], np.ndarray]:
    """A `load` that has the picture, uint8 RGB (H, W, 3), already."""
    return lambda: image
