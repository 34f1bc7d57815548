"""A page in the browser: token streams as they come, or a recording with a time line.

    streamtok view tcp://127.0.0.1:5555 --open
    streamtok view tcp://10.0.0.2:5555 ipc:///tmp/rear.ipc --port 8088
    streamtok view drive.mcap
    streamtok view tcp://127.0.0.1:5555 --to foxglove       (or rerun, or drive.rrd)

It shows pictures decoded from the tokens, and the camera's own where the node publishes them (`--publish-frames`). It
also shows token grids, latency by stage, and what was dropped or lost. Nodes are read only while a page is open. The
page is on loopback, as for an SSH tunnel (ssh -L 8088:localhost:8088 robot). On another --address the URL holds a
token, without which nobody is let in.
"""

import json
import logging
import os
import signal
import threading
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess

from streamtok.commands.command import make_main, until_stopped
from streamtok.node.logs import log_to_stderr
from streamtok.settings.view import ViewSettings

log = logging.getLogger("streamtok.view")

NICE = 10  # the encoder goes first where cores are few


def run(settings: ViewSettings) -> int:
    """Show until told to stop."""
    with until_stopped(settings) as stop:
        from streamtok.view.serving import feed_viewer, serve_page

        summary = serve_page(settings, stop) if settings.to == "page" else feed_viewer(settings, stop)
    print(json.dumps(summary) if settings.as_json else ", ".join(f"{key} {value}" for key, value in summary.items()))
    return 0


def view_beside(endpoint: str, port: int) -> None:
    """Show a node from a process that the node has started: behind the encoder's work, and until the node ends."""
    parent = parent_process()
    assert parent is not None
    os.nice(NICE)
    log_to_stderr()
    stop = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the node, which then ends this
    threading.Thread(target=stop_with, args=(parent, stop), daemon=True).start()
    try:
        import torch

        from streamtok.view.serving import serve_page

        torch.set_num_threads(1)
        serve_page(ViewSettings(inputs=[endpoint], port=port), stop)
    except (OSError, ValueError, RuntimeError) as error:
        log.error("event=no_page reason=%r", str(error))


def stop_with(parent: BaseProcess, stop: threading.Event) -> None:
    """Set `stop` once the parent process has ended, in whatever way."""
    parent.join()
    stop.set()


main = make_main("view", ViewSettings, run, __doc__)
