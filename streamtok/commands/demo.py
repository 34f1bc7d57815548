"""The whole pipeline on this machine in one command: a drive becomes tokens, and tokens become pictures again.

    streamtok demo
    streamtok demo --source drive.mp4 --model nano --out out/demo
    streamtok demo --source /dev/video0 --max-frames 150

An ingest node publishes tokens over ZeroMQ from a process of its own; this process subscribes and decodes them.
"""

import json

from streamtok.commands.command import make_main
from streamtok.settings.demo import DemoSettings


def run(settings: DemoSettings) -> int:
    """Run the demo; 1 if a part of it failed."""
    from streamtok.node.demo import run_demo
    from streamtok.node.demo_report import format_demo, progress, to_dict

    with progress(settings) as on_progress:
        result = run_demo(settings, on_progress)
    print(json.dumps(to_dict(settings, result)) if settings.as_json else format_demo(settings, result))
    return 0 if result.video else 1


main = make_main("demo", DemoSettings, run, __doc__)
