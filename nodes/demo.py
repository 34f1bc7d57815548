"""`streamtok demo` as a script, from a checkout."""

import sys

from streamtok.cli import main

sys.exit(main(["demo", *sys.argv[1:]]))
