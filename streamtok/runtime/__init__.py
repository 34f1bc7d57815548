"""What the programs in nodes/ are made of: capture, the ingest loop, metrics, displays, the demo and the doctor."""
