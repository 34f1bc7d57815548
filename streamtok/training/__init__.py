"""Training: data, losses, loop."""
