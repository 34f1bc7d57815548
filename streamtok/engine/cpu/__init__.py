"""The engine's own layers for a CPU: pasts that are not copied, convolutions in 8 bits."""
