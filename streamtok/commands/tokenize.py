"""Tokenize many recorded drives: parallel, resumable, the same bytes however often it is interrupted.

    streamtok tokenize drives/*.mcap --out tokens --workers 2
    streamtok tokenize --list drives.txt --out s3://bucket/tokens --shard 3/16
    streamtok tokenize drives/*.mcap --out tokens --runner ray --workers 16 --gpus 0.5
    streamtok tokenize --plan 100000 --size 256x448

A drive is what `streamtok replay` reads: a recording, a bag, a video, a folder. What is done is skipped when the
command runs again, what broke is listed and tried again. `--plan` measures this machine and computes what so many hours
of video need.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from streamtok.commands.command import command
from streamtok.commands.config_parser import new_config_parser


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    arguments = new_config_parser("tokenize", __doc__)
    add = arguments.add_argument
    add("drives", nargs="*", help="recorded drives: paths, or URLs that fsspec opens")
    add("--list", type=Path, help="a text file with one drive per line, besides those given")
    add("--out", "-o", help="folder or URL for the tokens")
    add("--model", default="nano", help="preset or checkpoint (default: nano)")
    add("--size", help="HEIGHTxWIDTH to encode (default: each camera's own, padded to the grid)")
    add("--fit", choices=("stretch", "crop", "pad"), default="stretch", help="how pictures fit --size (stretch)")
    add("--stream", action="append", dest="streams", help="only this camera, by topic or stream (repeat it)")
    add("--on-gap", choices=("reset", "bridge"), default="reset", help="at lost frames (default: reset)")
    add("--keyframe-interval", type=float, default=10.0, help="seconds of capture time, 0 for never (default: 10)")
    add("--context", type=int, help="latent steps that attention sees (default: the model's)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add("--deterministic", action="store_true", help="bit-identical for any split and slot count")
    add("--workers", type=int, default=1, help="drives at a time (default: 1)")
    add("--threads", type=int, default=1, help="CPU threads per worker; part of what decides the tokens (default: 1)")
    add("--engine", dest="choice", metavar="auto|eager|FILE", help="as for ingest")
    add("--retries", type=int, default=1, help="tries again for a broken drive, within this run (default: 1)")
    add("--shard", default="0/1", help="i/N: the i-th of N machines, counted from 0, which share the list")
    add("--check", action="store_true", help="read what is done and compare its checksums")
    add("--runner", choices=("local", "ray"), default="local", help="processes of this machine, or a Ray cluster")
    add("--gpus", type=float, default=0.0, help="ray: GPUs per worker, 0.5 lets two share one (default: 0)")
    add("--plan", type=float, metavar="HOURS", help="only compute time, storage and cost for so many hours of video")
    add("--rate", type=float, help="plan: frames per second of one worker (default: measured here)")
    add("--fps", type=float, default=30.0, help="plan: frames per second of the video (default: 30)")
    add("--price", type=float, default=0.05, help="plan: cost of a worker's hour (default: 0.05, a CPU core)")
    add("--quiet", dest="progress", action="store_false", help="no progress bar")
    add("--json", action="store_true", help="print the result as one JSON object")
    return arguments


def options_of(kind: Any, args: argparse.Namespace) -> Any:
    """Those of the arguments that are options of a kind, checked."""
    from streamtok.settings.rig import settings_of

    return settings_of(kind, None, {name: vars(args)[name] for name in kind.model_fields if name in args})


def fleet_options(args: argparse.Namespace) -> Any:
    """The options of every drive."""
    from streamtok.fleet.job import FleetOptions, settle_engine

    return settle_engine(options_of(FleetOptions, args), args.choice)


def run_fleet(args: argparse.Namespace) -> dict[str, Any]:
    """Tokenize; returns the result."""
    from streamtok.fleet.fleet import Fleet, RunOptions
    from streamtok.node.process import stop_on_signals

    drives = list(args.drives)
    if args.list:
        drives += [line.strip() for line in args.list.read_text().splitlines() if line.strip()]
    make_runner = None
    if args.runner == "ray":
        from streamtok.fleet.ray_runner import RayRunner, import_ray

        import_ray()

        def make_runner(out: str, options: Any, workers: int) -> Any:
            return RayRunner(out, options, workers, args.gpus)

    fleet = Fleet(drives, args.out, fleet_options(args), options_of(RunOptions, args), make_runner)
    with stop_on_signals(fleet.stop):
        return fleet.run()


@command("tokenize")
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status, 1 if a drive is broken or left."""
    arguments = parser()
    args = arguments.parse_args(argv)
    if args.plan is not None:
        from streamtok.fleet.plan import plan

        print(plan(args.plan, fleet_options(args), args.fps, args.rate, args.price).report(args.json))
        return 0
    if not (args.out and (args.drives or args.list)):
        arguments.error("give drives (or --list FILE) and --out, or --plan HOURS")
    result = run_fleet(args)
    print(json.dumps(result) if args.json else describe(result))
    for drive, reason in result["broken"].items():
        print(f"streamtok tokenize: {drive}: {reason}", file=sys.stderr)
    return 1 if result["broken"] or result["left"] else 0


def describe(result: dict[str, Any]) -> str:
    """The result for people."""
    words = f"{result['done']} drives done, {result['skipped']} were done before, {len(result['broken'])} broken"
    words += f", {result['left']} left" if result["left"] else ""
    return f"{words}; {result['frames']} frames in {result['seconds']:.1f} s ({result['fps']:.1f} per second)"


if __name__ == "__main__":
    sys.exit(main())
