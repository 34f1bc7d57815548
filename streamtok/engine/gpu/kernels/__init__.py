"""GPU kernels, each with a plain PyTorch or numpy reference."""
