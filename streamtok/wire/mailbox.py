"""A bounded queue between the thread that drains a socket and the reader; when it is full, it discards its oldest."""

import asyncio
import contextlib
import math
import os
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Closed(Exception):
    """Nothing more will come."""


class Mailbox(Generic[Item]):
    """Queues items of several streams, which come out in order of arrival; at most `capacity` wait per stream.

    The sizes of all waiting items, by `size_of`, sum to at most `room`, but each stream may keep its newest. A fast
    stream cannot displace a slow one. `discarded` counts, per stream, items that were not taken in time.

    A forked child lacks the thread that puts items in: there `get` and `get_async` raise RuntimeError.
    """

    def __init__(self, capacity: int, room: float = math.inf, size_of: Callable[[Item], int] = lambda item: 0) -> None:
        if capacity < 1:
            raise ValueError(f"queue size is {capacity}, expected at least 1")
        self.capacity, self._room, self._size_of = capacity, room, size_of
        self._size = 0
        self._process = os.getpid()
        self.discarded: Counter[str] = Counter()
        self._queues: dict[str, deque[tuple[int, Item]]] = defaultdict(deque)
        self._beyond: Counter[str] = Counter()
        self._arrivals = 0
        self._end: BaseException | None = None
        self._changed = threading.Condition()
        self._listeners: list[Callable[[], object]] = []

    def put(self, stream: str, item: Item, extra: bool = False) -> None:
        """Add an item of one stream; an `extra` one (of a late join) may wait beyond `capacity`."""
        with self._changed:
            queue = self._queues[stream]
            queue.append((self._arrivals, item))
            self._beyond[stream] += extra
            self._arrivals += 1
            self._size += self._size_of(item)
            while len(queue) > self.capacity + self._beyond[stream] or (self._size > self._room and len(queue) > 1):
                self._pop(stream)
                self.discarded[stream] += 1
            self._notify()

    def take(self) -> Item | None:
        """Take the oldest item, or None if none waits; raises Closed, or the error that ended the reading."""
        with self._changed:
            waiting = [(queue[0][0], stream) for stream, queue in self._queues.items() if queue]
            if not waiting and self._end is not None:
                raise self._end
            return self._pop(min(waiting)[1]) if waiting else None

    def get(self, timeout: float | None = None) -> Item | None:
        """Take the oldest item, waiting up to `timeout` seconds (None: for ever); None when the time is up."""
        self._check_process()
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while (item := self.take()) is None:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return None
                self._changed.wait(left)
            return item

    async def get_async(self, timeout: float | None = None) -> Item:
        """Take the oldest item; cancelling loses none. Raises Closed, or TimeoutError after `timeout` seconds."""
        self._check_process()
        changed = asyncio.Event()
        notify = partial(asyncio.get_running_loop().call_soon_threadsafe, changed.set)
        with self._changed:
            self._listeners.append(notify)
        try:
            while (item := self.take()) is None:
                await asyncio.wait_for(changed.wait(), timeout)
                changed.clear()
            return item
        finally:
            with self._changed:
                self._listeners.remove(notify)

    def end(self, error: BaseException | None = None) -> None:
        """Let readers take the waiting items, then raise Closed (or `error`); only the first call counts."""
        with self._changed:
            self._end = self._end or error or Closed()
            self._notify()

    @property
    def full(self) -> bool:
        """Whether the next item of some stream would discard an older one."""
        with self._changed:
            return self._size > self._room or any(
                len(queue) >= self.capacity + self._beyond[name] for name, queue in self._queues.items()
            )

    @property
    def over(self) -> bool:
        """Whether `end` was called and all items were taken."""
        with self._changed:
            return self._end is not None and not any(self._queues.values())

    def waiting(self, stream: str) -> int:
        """How many items of a stream wait."""
        with self._changed:
            return len(self._queues[stream])

    def _check_process(self) -> None:
        if self._process != os.getpid():
            raise RuntimeError("this reader belongs to the parent process; subscribe in the process that reads")

    def _pop(self, stream: str) -> Item:
        self._beyond[stream] = max(0, self._beyond[stream] - 1)
        item = self._queues[stream].popleft()[1]
        self._size -= self._size_of(item)
        return item

    def _notify(self) -> None:
        self._changed.notify_all()
        for listener in self._listeners:
            with contextlib.suppress(RuntimeError):  # its loop was closed while it waited
                listener()
