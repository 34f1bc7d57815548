"""What the wire tests share: groups, infos, a publisher that is served by a thread, and bounded waiting."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np

from streamtok.types import TokenGroup
from streamtok.wire.message import Info, TokenHeader
from streamtok.wire.publisher import Publisher

GRID = [4, 6]
LEVELS = [8, 8, 8, 5, 5, 5]


def make_info(stream: str = "front", **changes: Any) -> Info:
    """Info of a small discrete stream."""
    fields = {"tokenizer": "ab12", "grid": GRID, "dtype": "uint16", "levels": LEVELS, "image_size": [32, 48]}
    return Info(stream=stream, temporal_compression=4, **(fields | changes))


def make_group(number: int, stream: str = "front", interval: int = 8, **changes: Any) -> TokenGroup:
    """Group `number` of a stream with G = 4 and a keyframe every `interval` groups; its tokens all are `number`."""
    keyframe = number % interval == 0
    frames = [4 * number] if keyframe else list(range(4 * number - 3, 4 * number + 1))
    group = TokenGroup(
        stream=stream,
        tokens=np.full(GRID, number % 64000, np.uint16),
        keyframe=keyframe,
        epoch=number // interval,
        frame_ids=frames,
        capture_ns=[frame * 33_000_000 for frame in frames],
        dropped=0,
        repeated=0,
        encode_ns=5_000_000,
        image_size=(32, 48),
    )
    return replace(group, **changes)


def make_header(seq: int, session: int = 0, interval: int = 4) -> TokenHeader:
    """Header of one frame per message, with a keyframe every `interval` messages."""
    keyframe = seq % interval == 0
    numbers = {"seq": seq, "epoch": seq // interval, "dropped": 0, "repeated": 0, "encode_ns": 0, "publish_ns": 0}
    return TokenHeader(
        stream="front",
        session=f"{session:032x}",
        keyframe=keyframe,
        tokenizer="ab12",
        frame_ids=[seq],
        capture_ns=[seq],
        grid=[4, 6],
        dtype="uint16",
        levels=[8, 8],
        image_size=[32, 48],
        compression="none",
        checksum=0,
        **numbers,
    )


def eventually(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The first true value of `condition`, or its last value when the time is up."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return value


class SetClock:
    """A node's pair of clocks that is set before each of four groups: by an hour, forth and back."""

    pairs = [(0, 0), (0, 3_600_000_000_000)] * 2

    def __init__(self) -> None:
        self._now = self.pairs[0]

    def read(self) -> tuple[int, int]:
        """Monotonic and UTC time, ns."""
        return self._now

    def publish(self, publisher: Publisher) -> None:
        """Publish the groups."""
        for number, pair in enumerate(self.pairs):
            self._now = pair
            publisher.publish(make_group(number))


class Served:
    """A publisher with its own thread, as in a node: `do(f)` runs f(publisher) there and returns the result."""

    def __init__(self, *streams: str, bind: str = "tcp://127.0.0.1:*", **options: Any) -> None:
        self.publisher = Publisher(bind, **options)
        self.endpoint = self.publisher.endpoint
        self.events: list = []
        self._jobs: list = []
        self._stop = threading.Event()
        for stream in streams or ("front",):
            self.publisher.add_stream(make_info(stream))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def do(self, job: Callable[[Publisher], Any]) -> Any:
        """Run a job in the publisher's thread; raises what it raises."""
        done: Future = Future()
        self._jobs.append((job, done))
        return done.result(30)

    def publish(self, *groups: TokenGroup) -> None:
        """Publish groups in order."""
        for group in groups:
            self.do(lambda publisher, group=group: publisher.publish(group))

    def wait_subscribers(self, count: int) -> None:
        """Wait until `count` subscriptions match."""
        assert eventually(lambda: self.do(lambda publisher: publisher.subscribers() >= count))

    def close(self) -> None:
        """End the thread and the publisher."""
        self._stop.set()
        self._thread.join()
        self.publisher.close()

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _serve(self) -> None:
        while not self._stop.is_set():
            self.events += self.publisher.poll()
            while self._jobs:
                job, done = self._jobs.pop(0)
                try:
                    done.set_result(job(self.publisher))
                except Exception as error:
                    done.set_exception(error)
            time.sleep(0.002)
