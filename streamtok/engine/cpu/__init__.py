"""The engine's own layers for a CPU: state without copies, Winograd convolutions, convolutions in 8 bits."""
