"""What this machine can do and what is missing.

streamtok doctor
streamtok doctor --json
"""

import json
import sys

from streamtok.commands.command import command
from streamtok.commands.config_parser import new_config_parser

MARKS = {"ok": "ok  ", "note": "note", "bad": "BAD "}


@command("doctor")
def main(argv: list[str] | None = None) -> int:
    """Print the report; 1 if something that streamtok needs does not work."""
    parser = new_config_parser("doctor", __doc__)
    parser.add_argument("--folder", default=".", help="where recordings would go (default: here)")
    parser.add_argument("--json", action="store_true", help="one line of JSON on standard output")
    arguments = parser.parse_args(argv)
    from streamtok.commands.doctor_checks import run_checks

    checks = run_checks(arguments.folder)
    bad = any(check.state == "bad" for check in checks)
    if arguments.json:
        print(json.dumps({"ok": not bad, "checks": [check.to_dict() for check in checks]}))
        return int(bad)
    for check in checks:
        print(f"{MARKS[check.state]}  {check.name:<10} {check.found}")
        if check.advice:
            print(f"{'':<17}-> {check.advice}")
    print("\nsomething that streamtok needs does not work" if bad else "\nready: try `streamtok demo`")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
