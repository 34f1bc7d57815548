"""`streamtok encode` as a script, from a checkout."""

import sys

from streamtok.cli import main

sys.exit(main(["encode", *sys.argv[1:]]))
