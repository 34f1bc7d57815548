"""Connections to the page's server: open pages with their queues, and strangers that are no page yet."""

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

if TYPE_CHECKING:
    from streamtok.view.pictures import Group

WAITING = 16  # queued messages of one page; a slow browser misses the oldest
WAITING_TOKENS = 256  # likewise of a page that decodes by itself: they are small, and it needs each since a keyframe
WAITING_BYTES = 1 << 24  # of queued messages, besides one
MOST_STRANGERS = 32  # connections that are no page yet; a new one ends the oldest, so that idle ones block nobody
CLOSE_S = 1.0  # after which a closing connection that does not drain is cut off


class PageConnection(ServerConnection):
    """A connection to the server. It is among the `strangers`, oldest first, until it becomes a page or ends."""

    def __init__(self, strangers: dict[ServerConnection, None], *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._strangers = strangers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._strangers[self] = None
        if len(self._strangers) > MOST_STRANGERS:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._strangers.pop(self, None)
        super().connection_lost(exc)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close within CLOSE_S: the base class's own limit begins only when all queued data was sent."""
        cut = self.loop.call_later(CLOSE_S, self.transport.abort)
        await super().close(code, reason)
        cut.cancel()


class OpenPage:
    """An open page. `send` is thread-safe; `skipped` counts messages that the browser was too slow for.

    `wants_pictures` is False for a page that decodes by itself.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.wants_pictures = True
        self.skipped = 0
        self._loop = loop
        self._waiting: deque[bytes | str] = deque()
        self._filled = asyncio.Event()

    def take(self, group: "Group") -> None:
        """Send a group, with its picture if the page wants it."""
        self.send(group.packed if self.wants_pictures else group.packed_without)

    def send(self, message: bytes | str) -> None:
        """Queue a message, unless the server has gone."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._put, message)

    async def next_message(self) -> bytes | str:
        """Wait for the oldest queued message."""
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()
        return self._waiting.popleft()

    def _put(self, message: bytes | str) -> None:
        most, room = WAITING if self.wants_pictures else WAITING_TOKENS, WAITING_BYTES - len(message)
        while len(self._waiting) >= most or (self._waiting and sum(map(len, self._waiting)) > room):
            self._waiting.popleft()
            self.skipped += 1
        self._waiting.append(message)
        self._filled.set()


async def send_all(connection: ServerConnection, page: OpenPage) -> None:
    """Send the queued messages of a page, until it is closed."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await connection.send(await page.next_message())
