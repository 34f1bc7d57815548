"""The commands, one file each: its settings, its run, its words. `streamtok.cli` finds them by name.

What brings PyTorch is imported when a command runs: that takes seconds, and `--help` and wrong flags need none of it.
"""
