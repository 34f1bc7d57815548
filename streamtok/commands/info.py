"""What a recording, a token file or a drive holds.

    streamtok info drive.mcap
    streamtok info drive.mcap --plot tokens.png --json

Duration, streams, rates, gaps, keyframes, bits per second and code usage; --plot draws the tokens over time.
"""

import json
import sys

from streamtok.commands.command import command
from streamtok.commands.config_parser import new_config_parser


@command("info")
def main(argv: list[str] | None = None) -> int:
    """Inspect one file or folder; 0 when done, 1 if nothing of it can be read, 2 for wrong use."""
    parser = new_config_parser("info", __doc__)
    parser.add_argument("path", metavar="FILE", help="a recording, token file, bag, video, or folder with these")
    parser.add_argument("--plot", metavar="PNG", help="draw the tokens over time")
    parser.add_argument("--json", action="store_true", help="print one line of JSON on standard output")
    arguments = parser.parse_args(argv)
    from streamtok.commands.inspect_file import describe, inspect, is_empty
    from streamtok.drives.survey import plot_tokens

    report, surveys = inspect(arguments.path, picture=arguments.plot is not None)
    if arguments.plot:
        plot_tokens(surveys, arguments.plot)
    print(json.dumps(report) if arguments.json else describe(report))
    if is_empty(report):
        print(f"streamtok info: {arguments.path}: not one frame of it can be read", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
