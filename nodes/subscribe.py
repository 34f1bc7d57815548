"""`streamtok subscribe` as a script, from a checkout."""

import sys

from streamtok.cli import main

sys.exit(main(["subscribe", *sys.argv[1:]]))
