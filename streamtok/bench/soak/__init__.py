"""The soak test: a real node and its readers under random faults, and checks of the node's promises. Linux only."""
