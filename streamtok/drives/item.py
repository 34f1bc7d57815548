"""One camera image of a drive, before it is decoded."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from streamtok.io.images.stills import DamagedFrame
from streamtok.preprocessing.pixels import RawImage


def no_picture() -> np.ndarray:
    """The `load` of an item whose `damage` says why."""
    raise DamagedFrame


class Item(NamedTuple):
    """`load` gives a `Frame.picture` or raises DamagedFrame."""

    stream: str
    capture_ns: int
    load: Callable[[], np.ndarray | RawImage] = no_picture
    frame_id: int | None = None
    packet: bytes | None = None
    codec: str | None = None
    damage: str = ""  # why there is no picture, where that is known without `load`
    log_ns: int = 0  # when it was recorded, where that is known
    turn: int = 0  # times that the camera's clock was set back before it
    missing: int = 0  # images that are missing before it
