"""`streamtok exactness` as a script, from a checkout."""

import sys

from streamtok.cli import main

sys.exit(main(["exactness", *sys.argv[1:]]))
