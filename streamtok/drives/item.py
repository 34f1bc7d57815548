"""One camera image of a drive, before it is decoded."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from streamtok.io.images.stills import DamagedFrame
from streamtok.preprocessing.pixels import RawImage


def no_picture() -> np.ndarray:
    """The `load` of an item without a picture."""
    raise DamagedFrame


class Item(NamedTuple):
    """One image: `load` gives a `Frame.picture` or raises DamagedFrame. `capture_ns` is by the camera's clock."""

    stream: str
    capture_ns: int
    load: Callable[[], np.ndarray | RawImage] = no_picture
    frame_id: int | None = None
    packet: bytes | None = None
    codec: str | None = None
    damage: str = ""  # why there is no picture, if known before `load`
    log_ns: int = 0  # when it was recorded, if known
    turn: int = 0  # how often the camera's clock was set back before it
    missing: int = 0  # number of images missing before it
    was_set: bool = False  # whether its camera's clock was set forward there
