"""Measure this machine: start to first token, latency per group, throughput, ratios against a stateless encoder,
roofline, end to end.

    streamtok bench
    streamtok bench --model cosmos-dv4x8x8 --size 720x1280 --precision bfloat16 --cameras 8
    streamtok bench --precision int8 --clip drive.mp4 --windows ''
    streamtok bench --steady 10000 --end-to-end --out benchmarks/ --plot bench.png

Every comparison is made in one run, with the same input and precision. `--json` prints the whole report as one line.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from streamtok.commands.command import command, flag_type
from streamtok.commands.config_parser import new_config_parser
from streamtok.names import parse_device, parse_size


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    from streamtok.engine.configuration import PRECISIONS

    parser = new_config_parser("bench", __doc__)
    parser.add_argument("--model", default="nano", help="preset or checkpoint folder (default nano)")
    parser.add_argument("--size", type=flag_type(parse_size), default="256x448", metavar="HxW", help="default 256x448")
    parser.add_argument("--cameras", type=int, default=1, metavar="N")
    parser.add_argument("--fps", type=float, default=30.0, help="frames per second of each camera (default 30)")
    parser.add_argument("--precision", default="auto", choices=["auto", *PRECISIONS])
    parser.add_argument(
        "--clip", metavar="SOURCE", help="compare precisions on the start of this video or other source"
    )
    parser.add_argument("--device", type=flag_type(parse_device), default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="threads on the CPU (default: PyTorch's)")
    parser.add_argument("--groups", type=int, default=50, metavar="N", help="groups to time (default 50)")
    parser.add_argument("--windows", default="17,33,49", help="frames of the stateless windows; '' for none")
    parser.add_argument("--steady", type=int, default=0, metavar="N", help="also N groups in one epoch: drift, memory")
    parser.add_argument(
        "--start",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="start a node twice, the first time on an empty cache (default yes)",
    )
    parser.add_argument("--end-to-end", action="store_true", help="also from capture to reader, with a real node")
    parser.add_argument("-o", "--out", type=Path, metavar="PATH", help="write the report to a file, or into a folder")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the ratios")
    parser.add_argument("--json", action="store_true", help="print the report as one line of JSON")
    arguments = parser.parse_args(argv)
    if not re.fullmatch(r"(\d+(,\d+)*)?", arguments.windows):
        parser.error(f"--windows {arguments.windows!r}: expected frame counts such as 17,33,49")
    if min(arguments.cameras, arguments.groups) < 1 or min(arguments.threads, arguments.steady) < 0:
        parser.error("--cameras and --groups must be at least 1, --threads and --steady at least 0")
    return arguments


@command("bench")
def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; 1 if it cannot run here, 2 for wrong use."""
    arguments = parse(argv)
    import torch

    import streamtok
    from streamtok.bench.measure import measure_model
    from streamtok.bench.options import BenchOptions
    from streamtok.bench.tables import format_report, plot_ratios
    from streamtok.engine.loading import pick_device

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = pick_device(arguments.device).type
    windows = tuple(int(frames) for frames in arguments.windows.split(",") if frames)
    options = BenchOptions(
        arguments.size,
        arguments.cameras,
        arguments.precision,
        device,
        arguments.fps,
        arguments.groups,
        windows,
        arguments.steady,
        arguments.end_to_end,
        clip=arguments.clip,
        start=arguments.start,
        model=arguments.model,
    )
    report = measure_model(streamtok.load(arguments.model), options, lambda line: print(line, file=sys.stderr))
    written = write(report, arguments.out) if arguments.out else None
    if arguments.plot:
        plot_ratios(report, arguments.plot)
    print(json.dumps(report) if arguments.json else format_report(report))
    if written:
        print(f"written to {written}", file=sys.stderr)
    return 0


def write(report: dict[str, Any], out: Path) -> Path:
    """The report as JSON in `out`; in a folder under the device's, the model's and the size's name."""
    if out.suffix != ".json":
        device = re.sub(r"[^A-Za-z0-9]+", "-", report["machine"]["name"]).strip("-").lower()
        height, width = report["options"]["size"]
        out = out / f"{device}-{report['model']}-{height}x{width}-{report['engine']['precision']}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")
    return out


if __name__ == "__main__":
    sys.exit(main())
