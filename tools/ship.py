"""`streamtok ship` as a script, from a checkout."""

import sys

from streamtok.cli import main

sys.exit(main(["ship", *sys.argv[1:]]))
