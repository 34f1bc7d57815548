"""`streamtok doctor` as a script, from a checkout."""

import sys

from streamtok.cli import main

sys.exit(main(["doctor", *sys.argv[1:]]))
