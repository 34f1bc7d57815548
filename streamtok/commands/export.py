"""Export tokens for other tools: WebDataset shards, Parquet tables, or the LeRobot v3 layout.

    streamtok export recordings/ --to webdataset --out shards --window 16
    streamtok export drive.mcap --to parquet --out tables
    streamtok export drive.mcap --to lerobot --out dataset --task 'drive through the city' --video

The source is a token file, a recording, or a folder of these. Windows and episodes never go on across a gap.
"""

import argparse
import json
import sys

from streamtok.commands.command import command
from streamtok.commands.config_parser import new_config_parser


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    arguments = new_config_parser("export", __doc__)
    arguments.add_argument("source", nargs="+", help="token files, recordings, or folders of them")
    arguments.add_argument("--to", required=True, choices=("webdataset", "parquet", "lerobot"))
    arguments.add_argument("--out", "-o", required=True, help="a new folder")
    arguments.add_argument("--stream", action="append", dest="streams", help="repeat it; the first is the clock (all)")
    arguments.add_argument("--window", type=int, default=16, help="webdataset: grids per sample (default: 16)")
    arguments.add_argument("--shard-samples", type=int, default=1000, help="webdataset: samples per shard (1000)")
    arguments.add_argument("--fps", type=float, help="lerobot: grids per second (default: as recorded)")
    arguments.add_argument("--task", default="drive", help="lerobot: what happens, in words (default: drive)")
    arguments.add_argument("--video", action="store_true", help="lerobot: also pictures, decoded from the tokens")
    arguments.add_argument("--model", help="lerobot: the model that decodes (default: the one that the source names)")
    arguments.add_argument("--quiet", dest="progress", action="store_false", help="no progress bar")
    arguments.add_argument("--json", action="store_true", help="print the counts as one JSON object")
    return arguments


@command("export")
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    given = vars(parser().parse_args(argv))
    from streamtok.settings.rig import settings_of
    from streamtok.tokens.export import ExportOptions, export

    source, out, to, as_json = (given.pop(name) for name in ("source", "out", "to", "json"))
    counts = export(source, out, to, settings_of(ExportOptions, None, given))
    print(json.dumps(counts) if as_json else f"{out}: " + ", ".join(f"{v} {k}" for k, v in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
