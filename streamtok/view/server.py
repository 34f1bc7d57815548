"""The page's server: its files, and a WebSocket for each open page. It is on loopback, or requires a token."""

import asyncio
import hmac
import json
import mimetypes
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import parse_qs, urlsplit

from streamtok.extras import needs_extra
from streamtok.wire.endpoint import is_private

with needs_extra("the live page", "view"):
    from websockets.asyncio.server import Server, ServerConnection, serve
    from websockets.datastructures import Headers
    from websockets.exceptions import ConnectionClosed
    from websockets.http11 import Request, Response

    from streamtok.view.open_page import MOST_STRANGERS, OpenPage, PageConnection, send_all

MOST_PAGES = 16
REPLACED = 4000  # close code of an older page's WebSocket, upon which the page does not reconnect by itself
MAX_ORDER = 4096  # bytes of a message from a page
NO_ORDER = ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError
TURN_S, STATE_S = 0.1, 0.5
RUNTIME = "ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"  # files of onnxruntime-web
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; "
    "connect-src 'self' ws: wss:; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",  # both: WebAssembly may then use threads
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
mimetypes.add_type("text/javascript", ".mjs")


@dataclass(frozen=True)
class BrowserFiles:
    """What a browser needs to decode tokens: files by name (ONNX Runtime's WebAssembly and exported steps), and the
    `file`, `tokenizer` and `grid` of each step."""

    files: dict[str, bytes]
    steps: list[dict[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> "BrowserFiles":
        """Read a folder with both; ValueError says what is missing and where to get it."""
        missing = [name for name in RUNTIME if not (folder / name).is_file()]
        if missing:
            raise ValueError(
                f"{folder} lacks {', '.join(missing)}: npm pack onnxruntime-web, unpack it, and give its package/dist"
            )
        facts = {path.name: json.loads(path.with_suffix(".onnx.json").read_text()) for path in folder.glob("*.onnx")}
        decode = {name: step for name, step in facts.items() if step["direction"] == "decode"}
        if not decode:
            raise ValueError(
                f"{folder} has no step: streamtok export-model MODEL --size HxW --direction decode makes one"
            )
        names = [*RUNTIME, *decode, *(f"{name}.json" for name in decode)]
        steps = [{"file": name, "tokenizer": step["tokenizer"], "grid": step["grid"]} for name, step in decode.items()]
        return cls({name: (folder / name).read_bytes() for name in names}, steps)


class Show(Protocol):
    """What pages show. `join` and `leave` may block, `take_order` and `state` do not; all are thread-safe."""

    def join(self, page: OpenPage) -> None:
        """Start sending to a page."""

    def leave(self, page: OpenPage) -> None:
        """Stop sending to a page."""

    def take_order(self, page: OpenPage, order: dict[str, Any]) -> None:
        """Carry out an order of a page, other than `pictures`; ValueError or KeyError for a malformed one."""

    def state(self, page: OpenPage) -> dict[str, Any]:
        """The state that the page gets twice a second."""


class PageServer:
    """Serves one show on `address`:`port` (0: a free one). Beyond loopback a browser needs `token`.

    With `browser`, pages may decode by themselves. `url` is the page's address, once it is served.
    """

    def __init__(
        self,
        show: Show,
        port: int,
        address: str = "127.0.0.1",
        token: str | None = None,
        browser: BrowserFiles | None = None,
    ) -> None:
        self.show, self.port, self.address, self.token = show, port, address, token
        self.local = is_loopback(address)
        if token is None and not self.local:
            raise ValueError(f"a page on {address} can be reached by others: it needs a token")
        self.visits = 0
        self._pages: dict[OpenPage, ServerConnection] = {}  # oldest first
        self._strangers: dict[ServerConnection, None] = {}
        self._files = {item.name: item.read_bytes() for item in (files("streamtok.view") / "page").iterdir()}
        self._steps = browser.steps if browser else []
        self._files |= browser.files if browser else {}

    @property
    def url(self) -> str:
        """The address to open in a browser on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.address, self.address)
        return f"http://{host}:{self.port}/" + (f"?token={self.token}" if self.token else "")

    def run(self, stop: threading.Event, on_ready: Callable[[str], None] = lambda url: None) -> None:
        """Serve until `stop` is set; `on_ready` gets the URL. Raises OSError if the address or port is not free."""
        asyncio.run(self._serve(stop, on_ready))

    async def _serve(self, stop: threading.Event, on_ready: Callable[[str], None]) -> None:
        async with await self._listen() as server:
            self.port = next(iter(server.sockets)).getsockname()[1]
            on_ready(self.url)
            told = asyncio.create_task(self._tell_states())
            while not stop.is_set():
                await asyncio.sleep(TURN_S)
            told.cancel()

    async def _listen(self) -> Server:
        try:
            return await serve(
                self._on_socket,
                self.address,
                self.port,
                process_request=self._answer,
                compression=None,  # tokens and JPEG are not compressible
                max_size=MAX_ORDER,
                close_timeout=0.5,
                backlog=MOST_STRANGERS,  # they may all connect at once
                create_connection=cast("type[ServerConnection]", partial(PageConnection, self._strangers)),
            )
        except OSError as error:
            reason = error.strerror or error
            where = f"{self.address}:{self.port}"
            raise OSError(f"cannot serve the page on {where}: {reason}; choose another --port") from None

    async def _tell_states(self) -> None:
        while True:
            for page in list(self._pages):
                self._tell_state(page)
            await asyncio.sleep(STATE_S)

    def _tell_state(self, page: OpenPage) -> None:
        page.send(json.dumps(self.show.state(page) | {"skipped": page.skipped, "steps": self._steps}))

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer with a file or a refusal; None goes on to the WebSocket."""
        path, _, query = request.path.partition("?")
        refusal = self._refusal(path, query, request.headers)
        if refusal:
            return connection.respond(HTTPStatus.FORBIDDEN, f"{refusal}\n")
        if path == "/socket":
            return None
        name = path.removeprefix("/") or "index.html"
        if name not in self._files:
            return connection.respond(HTTPStatus.NOT_FOUND, f"no file {name[:80]!r}\n")
        body = self._files[name]
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        headers = Headers({"Content-Type": kind, "Content-Length": str(len(body)), **HEADERS})
        return Response(HTTPStatus.OK, "OK", headers, body)

    def _refusal(self, path: str, query: str, headers: Headers) -> str:
        """Why a request is refused, "" if it is not. Host and Origin keep out other sites in the browser, and the token
        keeps out other people."""
        host = headers.get("Host", "")
        if self.local and urlsplit(f"//{host}").hostname not in LOCAL_HOSTS:
            return f"this page is for localhost, not for {host[:80]!r}"
        origin = headers.get("Origin")
        if path == "/socket" and origin is not None and urlsplit(origin).netloc != host:
            return "another site may not read this page's streams"
        given = parse_qs(query).get("token", [""])[0]
        if path in ("/", "/socket") and self.token and not hmac.compare_digest(given.encode(), self.token.encode()):
            return "the token is missing or wrong: open the URL that streamtok view has printed"
        return ""

    async def _on_socket(self, connection: ServerConnection) -> None:
        page = OpenPage(asyncio.get_running_loop())
        self._strangers.pop(connection, None)
        self._pages[page] = connection
        self.visits += 1
        sending = asyncio.create_task(send_all(connection, page))
        try:
            self._tell_state(page)  # first, since a page needs a stream's facts to decode its groups
            await asyncio.gather(asyncio.to_thread(self.show.join, page), self._make_room())
            async for order in connection:
                self._take_order(page, order)
        except ConnectionClosed:
            pass
        finally:
            sending.cancel()
            self._pages.pop(page, None)
            await asyncio.to_thread(self.show.leave, page)

    async def _make_room(self) -> None:
        """Close the oldest page if there are too many, so that pages left open block nobody."""
        if len(self._pages) > MOST_PAGES:
            await self._pages.pop(next(iter(self._pages))).close(REPLACED, f"{MOST_PAGES} newer pages are open")

    def _take_order(self, page: OpenPage, order: str | bytes) -> None:
        """Carry out an order of a page; a malformed one is answered with an error."""
        try:
            asked = json.loads(order, parse_constant=refuse_constant)
            if asked["op"] == "pictures":
                page.wants_pictures = bool(asked["on"])
            else:
                self.show.take_order(page, asked)
        except NO_ORDER as error:
            page.send(json.dumps({"kind": "error", "error": f"{type(error).__name__}: {error}"}))
        self._tell_state(page)


def refuse_constant(name: str) -> None:
    """Raise ValueError for constants that JSON does not have, such as NaN."""
    raise ValueError(f"{name} is no number")


def is_loopback(address: str) -> bool:
    """Whether an address is reachable from this machine only."""
    return is_private(f"tcp://{f'[{address}]' if ':' in address else address}:1")
