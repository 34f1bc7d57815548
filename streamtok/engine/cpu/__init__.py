"""The engine's own layers for a CPU: state without copies, NNPACK's convolutions, convolutions in 8 bits."""
