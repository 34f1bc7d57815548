"""`streamtok replay` as a script, from a checkout."""

import sys

from streamtok.cli import main

sys.exit(main(["replay", *sys.argv[1:]]))
