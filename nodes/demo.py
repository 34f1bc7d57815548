"""The whole pipeline on this machine in one command: a drive becomes tokens, and tokens become pictures again.

    streamtok demo
    streamtok demo --source drive.mp4 --model nano --out out/demo
    streamtok demo --source /dev/video0 --max-frames 150

An ingest node publishes tokens over ZeroMQ from a process of its own; this process subscribes and decodes them.
"""

import json
import sys
from pathlib import Path
from typing import Any

from streamtok.command import command, new_parser
from streamtok.flags import parse_with_config

DEFAULT_SOURCE = "synthetic:256x448@30?seed=7&frames=301"


@command("demo")
def main(argv: list[str] | None = None) -> int:
    """Run the demo; 1 if a part of it failed."""
    parser = new_parser("demo", __doc__)
    parser.add_argument(
        "--source", default=DEFAULT_SOURCE, metavar="SRC", help="what ingest takes (default %(default)s)"
    )
    parser.add_argument("--model", default="nano", help="preset name or checkpoint folder (default nano)")
    parser.add_argument("-o", "--out", type=Path, default=Path("out/demo"), metavar="DIR", help="default %(default)s")
    parser.add_argument("--size", metavar="HxW", help="resize to this (default: large sources to about 256x448)")
    parser.add_argument("--max-frames", type=int, default=301, metavar="N", help="default %(default)s")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    parser.add_argument("--json", action="store_true", help="print the summary as one line of JSON")
    arguments = parse_with_config(parser, argv)
    from streamtok.runtime.demo import DemoOptions, run_demo
    from streamtok.runtime.demo_report import describe, progress, to_dict
    from streamtok.settings import read_size

    try:
        size: Any = read_size(arguments.size) if arguments.size else None
    except ValueError as error:
        parser.error(f"--size {arguments.size}: {error}")
    options = DemoOptions(
        arguments.source, arguments.model, arguments.out, size, arguments.max_frames, device=arguments.device
    )
    with progress(options) as on_progress:
        result = run_demo(options, on_progress)
    print(json.dumps(to_dict(options, result)) if arguments.json else describe(options, result))
    return 0 if result.video else 1


if __name__ == "__main__":
    sys.exit(main())
