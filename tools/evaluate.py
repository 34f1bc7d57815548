"""`streamtok evaluate` as a script, from a checkout."""

import sys

from streamtok.cli import main

sys.exit(main(["evaluate", *sys.argv[1:]]))
