"""`streamtok keys` as a script, from a checkout."""

import sys

from streamtok.cli import main

sys.exit(main(["keys", *sys.argv[1:]]))
