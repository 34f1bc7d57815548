"""`streamtok decode` as a script, from a checkout."""

import sys

from streamtok.cli import main

sys.exit(main(["decode", *sys.argv[1:]]))
