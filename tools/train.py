"""`streamtok train` as a script, from a checkout."""

import sys

from streamtok.cli import main

sys.exit(main(["train", *sys.argv[1:]]))
