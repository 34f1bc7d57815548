"""The commands, one file each: its settings, its run, its words. `streamtok.cli` finds them by name."""
