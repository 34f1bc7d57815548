"""Recover a recording that was cut off.

    streamtok repair drive.mcap
    streamtok repair drive.mcap -o recovered.mcap

Everything that can still be read goes into a new MCAP file with an index (default: drive_repaired.mcap); the old file
is not touched. Replay and info read a cut-off file as it is, too: repair is for other programs, and for speed.
"""

import json
import sys

from streamtok.commands.command import command
from streamtok.commands.config_parser import new_config_parser


@command("repair")
def main(argv: list[str] | None = None) -> int:
    """Repair the files; 0 when done or nothing was wrong, 1 if one cannot be repaired, 2 for wrong use."""
    parser = new_config_parser("repair", __doc__)
    parser.add_argument("path", metavar="FILE", help="the MCAP file")
    parser.add_argument("-o", "--out", metavar="FILE", help="the file to write (never overwrites one)")
    parser.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    arguments = parser.parse_args(argv)
    from streamtok.recording.repair import repair

    done = repair(arguments.path, arguments.out)
    out = None if done.path is None else str(done.path)
    if arguments.json:
        print(json.dumps({"out": out, "messages": done.messages, "damage": done.damage}))
    elif out is None:
        print(f"{arguments.path}: nothing to repair ({done.messages} messages)")
    else:
        for text in done.damage:
            print(f"{arguments.path}: {text}")
        print(f"{done.messages} messages recovered to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
