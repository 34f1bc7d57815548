"""What `streamtok view` runs: the page on its server, or streams to another viewer, until told to stop."""

import logging
import secrets
import threading
import webbrowser

from streamtok.settings.view import ViewSettings
from streamtok.view.live import LiveShow
from streamtok.view.other_viewers import FoxgloveViewer, RerunViewer
from streamtok.view.pictures import Models
from streamtok.view.recorded import RecordedShow
from streamtok.view.server import BrowserFiles, PageServer, is_loopback
from streamtok.wire.security import CurveClient, load_keys

log = logging.getLogger("streamtok.view")


def serve_page(settings: ViewSettings, stop: threading.Event) -> dict[str, str | int]:
    """Serve the page until `stop` is set; returns what was shown. Raises what `PageServer` and the recording do."""
    models = Models(settings.model, settings.device)
    show = open_nodes(settings, models) if settings.live else RecordedShow(settings.inputs[0], models)
    token = settings.token or (None if is_loopback(settings.address) else secrets.token_urlsafe(16))
    browser = BrowserFiles.read(settings.browser) if settings.browser else None
    server = PageServer(show, settings.port, settings.address, token, browser)

    def on_ready(url: str) -> None:
        log.info("event=page url=%s", url)
        if settings.open:
            webbrowser.open(url)

    server.run(stop, on_ready)
    return {"url": server.url, "pages": server.visits, "groups": show.groups}


def feed_viewer(settings: ViewSettings, stop: threading.Event) -> dict[str, str | int]:
    """Send streams to Rerun or Foxglove until `stop` is set; returns what was shown."""
    file = settings.to if settings.to.endswith(".rrd") else None
    viewer = FoxgloveViewer() if settings.to == "foxglove" else RerunViewer(file)
    show = open_nodes(settings, Models(settings.model, settings.device))
    show.join(viewer)
    log.info("event=viewer to=%s", settings.to)
    stop.wait()
    show.leave(viewer)
    viewer.close()
    return {"to": settings.to, "groups": show.groups}


def open_nodes(settings: ViewSettings, models: Models) -> LiveShow:
    """The nodes that the inputs name."""
    return LiveShow(settings.inputs, models, load_keys(CurveClient, settings.curve))
