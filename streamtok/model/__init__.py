"""The network: pure PyTorch, no I/O."""
