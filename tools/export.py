"""`streamtok export` as a script, from a checkout."""

import sys

from streamtok.cli import main

sys.exit(main(["export", *sys.argv[1:]]))
