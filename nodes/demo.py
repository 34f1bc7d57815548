"""`streamtok demo` as a script, from a checkout."""

import sys

from streamtok.cli import main

sys.argv.insert(1, "demo")
sys.exit(main())
