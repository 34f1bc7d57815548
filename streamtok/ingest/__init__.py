"""From frames of several cameras to groups, and through the network to token grids: live, replayed, offline."""
