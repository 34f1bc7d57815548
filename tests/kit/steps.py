"""Cameras that share a step."""

import torch

from streamtok.ingest.core import IngestCore, StreamOptions
from streamtok.model import Tokenizer
from tests.kit.models import VIDEO
from tests.kit.pictures import MS, SIZE

CAMERAS = ["a", "b", "c"]
torch.manual_seed(0)
TINY = Tokenizer(VIDEO)


class Clock:
    """A timer that goes when told to."""

    ms = 0.0

    def __call__(self) -> int:
        return round(self.ms * MS)


def shared(tokenizer=TINY, cameras=CAMERAS, timer=None, **options) -> IngestCore:
    """A core whose cameras share a step and wait 5 ms for each other."""
    each = StreamOptions(**{"keyframe_interval": 0, "size": SIZE} | options)
    more = {"timer": timer} if timer else {}
    return IngestCore(tokenizer, dict.fromkeys(cameras, each), batches=[cameras], batch_wait_ms=5, **more)
