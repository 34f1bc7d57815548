"""Token files and datasets, for training on tokens."""
