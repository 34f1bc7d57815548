"""`streamtok ingest` as a script, from a checkout."""

import sys

from streamtok.cli import main

sys.exit(main(["ingest", *sys.argv[1:]]))
