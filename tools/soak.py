"""`streamtok soak` as a script, from a checkout."""

from streamtok.cli import run_script

run_script("soak")
