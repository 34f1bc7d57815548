"""What runs: the ingest loop, capture threads, metrics, displays, replay."""
