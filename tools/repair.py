"""`streamtok repair` as a script, from a checkout."""

import sys

from streamtok.cli import main

sys.exit(main(["repair", *sys.argv[1:]]))
