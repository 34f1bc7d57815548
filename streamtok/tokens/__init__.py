"""Token files, datasets for training on tokens, and exports; `streamtok.data` has what users import."""
