"""Exports one step of a tokenizer as a file for other runtimes: `streamtok export-model`."""
