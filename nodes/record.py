"""`streamtok record` as a script, from a checkout."""

import sys

from streamtok.cli import main

sys.exit(main(["record", *sys.argv[1:]]))
