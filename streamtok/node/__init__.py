"""The nodes and what they consist of: the ingest node and its loop, metrics, displays, replay, the demo."""
