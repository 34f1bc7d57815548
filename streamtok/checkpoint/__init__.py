"""Checkpoints: our folders, and published Cosmos checkpoints."""
