"""Offline jobs, one per file."""
