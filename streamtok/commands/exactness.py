"""Measure what docs/exactness.md states: streams against whole clips, modes and precisions, on a synthetic drive.

python -m streamtok.commands.exactness
python -m streamtok.commands.exactness --models nano nano-p --frames 65
"""

import argparse
import sys


def main(argv: list[str] | None = None) -> int:
    """Print a Markdown table; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["nano", "nano-p"], help="discrete video presets")
    parser.add_argument("--frames", type=int, default=17, help="1 + a multiple of 4 (default 17)")
    arguments = parser.parse_args(argv)
    from streamtok.bench.exactness import measure_exactness

    print("| comparison | model | found |\n| --- | --- | --- |")
    for name in arguments.models:
        for row in measure_exactness(name, arguments.frames):
            print(f"| {row.comparison} | `{row.model}` | {row.found} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
