"""The weights that ship, one folder per model."""
