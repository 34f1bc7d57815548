"""`streamtok tokenize` as a script, from a checkout."""

import sys

from streamtok.cli import main

sys.exit(main(["tokenize", *sys.argv[1:]]))
