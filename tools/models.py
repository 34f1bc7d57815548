"""`streamtok models` as a script, from a checkout."""

import sys

from streamtok.cli import main

sys.argv.insert(1, "models")
sys.exit(main())
