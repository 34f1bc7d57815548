"""Header parsing of compressed video: the order of its pictures, and whether a packet is complete."""
