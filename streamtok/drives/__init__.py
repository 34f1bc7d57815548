"""Recorded drives: opened whatever wrote them, surveyed, and replayed through the core of live ingest."""
