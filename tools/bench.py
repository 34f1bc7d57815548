"""`streamtok bench` as a script, from a checkout."""

import sys

from streamtok.cli import main

sys.exit(main(["bench", *sys.argv[1:]]))
