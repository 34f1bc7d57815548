"""Frames of several cameras to groups, and groups through the network to token grids: live, replayed, offline."""
