"""Recordings of token streams and camera images: written while they run, read back, repaired."""
