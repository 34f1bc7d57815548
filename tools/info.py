"""`streamtok info` as a script, from a checkout."""

import sys

from streamtok.cli import main

sys.exit(main(["info", *sys.argv[1:]]))
