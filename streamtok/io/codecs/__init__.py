"""What the headers of compressed video say: the order of its pictures, and whether a packet is whole."""
