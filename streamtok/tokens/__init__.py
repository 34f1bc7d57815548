"""Token files, datasets for training on tokens, and exports; users import them from `streamtok.data`."""
