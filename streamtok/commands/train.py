"""Train a tokenizer.

    streamtok train --config configs/train_nano.yaml --set data.paths='[my/videos]' --set out=out/nano
    streamtok train --config configs/train_nano.yaml --resume

The config says what to train, on what and for how long (steps or seconds); --set overrides any of its keys, nested
ones with dots. A run that was stopped or killed goes on from its last checkpoint with --resume, bit for bit on a CPU;
without it, a folder that holds a run is refused unless --overwrite is given.
The folder `out` gets log.jsonl, curve.png, sample_*.png, last.pt (for --resume) and model/ (for streamtok.load).
"""

import argparse
import json
import logging
import sys
from pathlib import Path

from streamtok.commands.command import command, new_parser


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = new_parser("train", __doc__)
    parser.add_argument("--config", required=True, help="YAML file, see configs/train_*.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the config")
    parser.add_argument("-o", "--out", help="folder for everything the run writes")
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument("--resume", action="store_true", help="go on from out/last.pt")
    earlier.add_argument("--overwrite", action="store_true", help="throw away the run that is in out, and begin anew")
    parser.add_argument("--stop-after", type=float, metavar="SECONDS", help="save and stop early, to be resumed later")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON line")
    return parser.parse_args(argv)


@command("train")
def main(argv: list[str] | None = None) -> int:
    """Run a training; returns 0, 1 when it failed, 2 for wrong use."""
    arguments = parse(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    from streamtok.settings.yaml_file import parse_set
    from streamtok.training.build import build_model, export
    from streamtok.training.config import load_config
    from streamtok.training.loop import train

    overrides = parse_set(arguments.set) | ({"out": arguments.out} if arguments.out else {})
    config = load_config(arguments.config, overrides)
    model = build_model(config)
    earlier = {"resume": arguments.resume, "overwrite": arguments.overwrite}
    summary = train(config, model, **earlier, stop_after=arguments.stop_after)
    export(model, Path(config.out) / "model")
    if arguments.json:
        print(json.dumps(vars(summary)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
