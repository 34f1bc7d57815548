"""The whole pipeline on this machine in one command: a drive becomes tokens, and tokens become pictures again.

    streamtok demo
    streamtok demo --source drive.mp4 --model nano --out out/demo
    streamtok demo --source /dev/video0 --max-frames 150

An ingest node publishes tokens over ZeroMQ from a process of its own; this process subscribes and decodes them.
"""

import json
import sys

from streamtok.commands.command import command, new_settings_parser


@command("demo")
def main(argv: list[str] | None = None) -> int:
    """Run the demo; 1 if a part of it failed."""
    parser = new_settings_parser("demo", __doc__)
    add = parser.add_argument
    add("--source", metavar="SRC", help="what ingest takes (default: ten seconds of a synthetic drive)")
    add("--model", help="preset name or checkpoint folder (default nano)")
    add("-o", "--out", metavar="DIR", help="where the pictures go (default out/demo)")
    add("--size", metavar="HxW", help="resize to this (default: large sources to about 256x448)")
    add("--max-frames", type=int, metavar="N", help="end after N frames (default 301)")
    add("--max-seconds", type=float, metavar="SECONDS", help="end after this time (default 100)")
    add("--device", help="auto, cpu, cuda or cuda:N (default auto)")
    given = vars(parser.parse_args(argv))
    from streamtok.node.demo import DemoSettings, run_demo
    from streamtok.node.demo_report import format_summary, progress, to_dict
    from streamtok.settings.rig import settings_of

    settings = settings_of(DemoSettings, given.pop("config", None), given)
    with progress(settings) as on_progress:
        result = run_demo(settings, on_progress)
    print(json.dumps(to_dict(settings, result)) if settings.as_json else format_summary(settings, result))
    return 0 if result.video else 1


if __name__ == "__main__":
    sys.exit(main())
