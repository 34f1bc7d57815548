"""Recorded drives of any supported format: opened, read as frames of several cameras, and surveyed."""
