"""Show token streams live on a page in the browser, or a recording with a time line.

    streamtok view tcp://127.0.0.1:5555 --open
    streamtok view tcp://10.0.0.2:5555 ipc:///tmp/rear.ipc --port 8088
    streamtok view drive.mcap
    streamtok view tcp://127.0.0.1:5555 --to foxglove       (or rerun, or drive.rrd)

It shows pictures decoded from the tokens, and the camera's own if the node publishes them (`--publish-frames`). It also
shows token grids, latency by stage, drops and losses. Nodes are read only while a page is open. The page is on
loopback, for an SSH tunnel (ssh -L 8088:localhost:8088 robot). On another --address, access needs the URL's token.
"""

import logging
import os
import secrets
import signal
import threading
import webbrowser
from multiprocessing import parent_process
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from streamtok.commands.command import make_main, until_stopped
from streamtok.names import parse_endpoint
from streamtok.node.logs import log_to_stderr
from streamtok.settings.fields import Device, Flag, Folder, Model, Port, Switch, Texts, option
from streamtok.settings.shared import NodeSettings

if TYPE_CHECKING:
    from streamtok.view.live import LiveShow

log = logging.getLogger("streamtok.view")

NICE = 10  # of the page's process, so that the encoder goes first on few cores


class ViewSettings(NodeSettings):
    """What to show, and where the page is served."""

    inputs: Annotated[Texts, Field(min_length=1), Flag("INPUT", positional=True)] = Field(
        description="endpoints of nodes, or one recording"
    )
    port: Port = option(8088, "port of the page; 0 for a free one")
    address: Annotated[str, Flag("ADDRESS")] = option("127.0.0.1", "where the page is served")
    token: Annotated[str, Field(min_length=8), Flag("TOKEN")] | None = option(
        None, "token that a browser needs (default: a new one, beyond loopback)"
    )
    to: Annotated[str, Field(pattern=r"^(page|rerun|foxglove|.+\.rrd)$"), Flag("VIEWER")] = option(
        "page", "page, foxglove (serves ws://127.0.0.1:8765), rerun (one that runs here), or FILE.rrd"
    )
    open: Switch = option(False, "open the page in this machine's browser")
    model: Model | None = option(None, "preset or checkpoint (default: the one that a stream names)")
    device: Device = option("auto", "where pictures are decoded: auto, cpu, cuda or cuda:N")
    browser: Folder | None = option(
        None, "let pages decode: a folder with onnxruntime-web's files and exported steps (docs/export.md)"
    )
    curve: Folder | None = option(None, "keys of this reader (client.key_secret, server.key)")

    @property
    def live(self) -> bool:
        """Whether the inputs are nodes, not a recording."""
        return any(text.startswith(("tcp://", "ipc://", "inproc://")) for text in self.inputs)

    @model_validator(mode="after")
    def check_together(self) -> "ViewSettings":
        """Raise ValueError for flags that contradict each other."""
        if self.live:
            for text in self.inputs:
                parse_endpoint(text)
        elif self.to != "page":
            raise ValueError(f"to {self.to!r}: for nodes; a recording opens in Foxglove as it is")
        elif len(self.inputs) > 1 or self.curve is not None:
            raise ValueError(f"{self.inputs[0]!r} is a recording: give one, and no curve; nodes are tcp://HOST:PORT")
        return self


def run(settings: ViewSettings) -> int:
    """Show the inputs until told to stop; returns 0."""
    begun = threading.Event()
    with until_stopped(settings, begun) as stop:
        show = serve_page if settings.to == "page" else feed_viewer
        summary = show(settings, stop, begun)
    print(settings.format_result(summary, ", ".join(f"{key} {value}" for key, value in summary.items())))
    return 0


def serve_page(settings: ViewSettings, stop: threading.Event, begun: threading.Event) -> dict[str, str | int]:
    """Set `begun` and serve the page until `stop` is set; returns counts. Raises as `PageServer`, `RecordedShow` do."""
    from streamtok.view.pictures import Models
    from streamtok.view.recorded import RecordedShow
    from streamtok.view.server import BrowserFiles, PageServer, is_loopback

    if settings.live:
        show: LiveShow | RecordedShow = open_nodes(settings)
    else:
        show = RecordedShow(settings.inputs[0], Models(settings.model, settings.device))
    token = settings.token or (None if is_loopback(settings.address) else secrets.token_urlsafe(16))
    browser = BrowserFiles.read(settings.browser) if settings.browser else None
    server = PageServer(show, settings.port, settings.address, token, browser)

    def on_ready(url: str) -> None:
        log.info("event=page url=%s", url)
        if settings.open:
            webbrowser.open(url)

    begun.set()
    server.run(stop, on_ready)
    return {"url": server.url, "pages": server.visits, "groups": show.groups}


def feed_viewer(settings: ViewSettings, stop: threading.Event, begun: threading.Event) -> dict[str, str | int]:
    """Set `begun` and send streams to Rerun or Foxglove until `stop` is set; returns counts."""
    from streamtok.view.other_viewers import FoxgloveViewer, RerunViewer

    file = settings.to if settings.to.endswith(".rrd") else None
    show = open_nodes(settings)
    begun.set()
    viewer = FoxgloveViewer() if settings.to == "foxglove" else RerunViewer(file)
    show.join(viewer)
    log.info("event=viewer to=%s", settings.to)
    stop.wait()
    show.leave(viewer)
    viewer.close()
    return {"to": settings.to, "groups": show.groups}


def open_nodes(settings: ViewSettings) -> "LiveShow":
    """Open the nodes that the inputs name."""
    from streamtok.view.live import LiveShow
    from streamtok.view.pictures import Models
    from streamtok.wire.security import CurveClient, load_keys

    return LiveShow(settings.inputs, Models(settings.model, settings.device), load_keys(CurveClient, settings.curve))


def view_beside(endpoint: str, port: int) -> None:
    """Run the page in a process that the node has started: at low priority, until the node ends."""
    parent = parent_process()
    assert parent is not None
    os.nice(NICE)
    log_to_stderr()
    stop = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the node; this process ends with it

    def follow_parent() -> None:
        parent.join()
        stop.set()

    threading.Thread(target=follow_parent, daemon=True).start()
    try:
        import torch

        torch.set_num_threads(1)
        serve_page(ViewSettings(inputs=[endpoint], port=port), stop, threading.Event())
    except (OSError, ValueError, RuntimeError) as error:
        log.error("event=no_page reason=%r", str(error))


main = make_main("view", ViewSettings, run, __doc__)
