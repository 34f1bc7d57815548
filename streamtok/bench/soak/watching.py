"""Two threads that check a node from outside: a reader that follows `seq`, and a scraper of its metrics."""

import http.client
import re
import threading
import time
import urllib.request
from collections.abc import Callable

from streamtok.bench.soak.promises import Promises
from streamtok.wire.message import TokenMessage
from streamtok.wire.subscriber import Subscription, subscribe

GET_S = 0.2
OLD_NS = 5_000_000_000  # from capture to publication: waiting for the encoder cannot take so long with this model
SCRAPE_S = 1.0  # between scrapes
ANSWER_S = 10.0
NO_ANSWER = OSError, http.client.HTTPException
NOT_ATOMIC = 2  # messages by which counters of one scrape may disagree, since they are read one by one
WAITING_S = 3.0  # seconds of frames that may be neither in a group nor counted as dropped yet
LINE = re.compile(r"^streamtok_(\w+)_total\{.*\} (\S+)$", re.M)


class Watcher:
    """Reads the node's messages and checks that `seq` rises by one; `session` and `seq` are those of the last message.

    `heard_at` is the monotonic time in s of the last decodable message. `encode_ms` are all encode times, `times` (s)
    when they came.
    """

    def __init__(self, endpoint: str, promises: Promises) -> None:
        self.endpoint, self.promises = endpoint, promises
        self.session, self.seq, self.heard_at = "", -1, 0.0
        self.messages, self.lost = 0, 0
        self._old = False
        self.times: list[float] = []
        self.encode_ms: list[float] = []
        self._subscription: Subscription = subscribe(endpoint)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher")
        self._thread.start()

    @property
    def group(self) -> int:
        """Frames per group, 1 until an info has come."""
        return max((info.temporal_compression for info in self._subscription.infos.values()), default=1)

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()
        self._subscription.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            message = self._subscription.get(GET_S)
            if message is not None:
                self._take(message)

    def _take(self, message: TokenMessage) -> None:
        header = message.header
        if header.session == self.session:
            words = f"seq {header.seq} came after {self.seq}"
            self.promises.check("seq rises by one", header.seq == self.seq + 1, words)
            self.lost += max(0, header.seq - self.seq - 1)
        old = header.publish_ns - header.capture_ns[-1] > OLD_NS
        self.promises.check("what is old is left out", not (old and self._old), f"two messages in a row, {header.seq}")
        self._old = old  # a single one may be old: the node was suspended during its step
        self.seq, self.messages = header.seq, self.messages + 1
        self.times.append(time.monotonic())
        self.encode_ms.append(header.encode_ns / 1e6)
        if message.decodable:
            self.heard_at = time.monotonic()
        self.session = header.session  # last, for other threads wait for a new session and then read the rest


class Scraper:
    """Reads /healthz and /metrics each second, and checks that they answer and that the counters add up.

    `generation()` is the number of the node's current start, None while it is down; `fps` is the camera's rate.
    """

    def __init__(self, port: int, watcher: Watcher, generation: Callable[[], int | None], fps: float) -> None:
        self.port, self.watcher, self.generation, self.fps = port, watcher, generation, fps
        self.promises = watcher.promises
        self.totals: dict[str, float] = {}
        self._seen: int | None = None
        self._missing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scraper")
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def ask(self, path: str) -> str:
        """Get a page of the node, with a second try if strangers displaced the first; one of NO_ANSWER if none came."""
        try:
            return self._get(path)
        except NO_ANSWER:
            return self._get(path)

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=ANSWER_S) as answer:
            return str(answer.read().decode())

    def check_page(self, path: str) -> str | None:
        """Get a page, and check that the node answers if it was up all the time; None without an answer."""
        generation = self.generation()
        page, words = None, ""
        if generation is not None:
            try:
                page = self.ask(path)
            except NO_ANSWER as error:
                words = f"{path}: {error!r}"
        if generation is None or generation != self.generation():  # killed meanwhile
            return None
        self.promises.check(f"{path} answers", page is not None, words)
        return page

    def _run(self) -> None:
        while not self._stop.wait(SCRAPE_S):
            self.check_page("/healthz")
            generation = self.generation()
            page = self.check_page("/metrics")
            if page is not None:
                self._compare({name: float(value) for name, value in LINE.findall(page)}, generation)

    def _compare(self, totals: dict[str, float], generation: int | None) -> None:
        """Check the counters against each other, and against the previous scrape of the same process."""
        again = generation == self._seen
        if again:
            fell = [name for name, total in totals.items() if total < self.totals.get(name, 0)]
            self.promises.check("counters never fall", not fell, f"fell: {', '.join(fell)}")
        self.totals, self._seen = totals, generation
        groups, keyframes = totals.get("groups", 0), totals.get("keyframes", 0)
        unsent = groups - totals.get("published", 0) - totals.get("publish_errors", 0)
        self.promises.check("groups are published", abs(unsent) <= NOT_ATOMIC, f"{unsent:.0f} of {groups:.0f} are not")
        size = self.watcher.group
        inside = keyframes + size * (groups - keyframes) - totals.get("repeated", 0)
        waiting = totals.get("frames", 0) - totals.get("dropped", 0) - inside
        most = 4 * size + WAITING_S * self.fps
        words = f"{waiting:.0f} frames are neither in a group nor dropped nor waiting"
        missing, before = not -NOT_ATOMIC * size <= waiting <= most, self._missing and again
        self.promises.check("frames add up", not (missing and before), words)
        self._missing = missing  # once is allowed: a node that was suspended has not counted its drops yet
