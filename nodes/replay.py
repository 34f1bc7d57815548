"""`streamtok replay` as a script, from a checkout."""

import sys

from streamtok.cli import main

sys.argv.insert(1, "replay")
sys.exit(main())
