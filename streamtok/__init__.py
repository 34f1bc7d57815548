"""Live camera streams to discrete video tokens: stateful, exact, in real time."""
