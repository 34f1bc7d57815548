"""`streamtok models` as a script, from a checkout."""

import sys

from streamtok.cli import main

sys.exit(main(["models", *sys.argv[1:]]))
