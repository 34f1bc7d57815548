"""`streamtok export` as a script, from a checkout."""

import sys

from streamtok.cli import main

sys.argv.insert(1, "export")
sys.exit(main())
