"""Recordings of token streams and camera images in MCAP files: written live, read back, repaired."""
