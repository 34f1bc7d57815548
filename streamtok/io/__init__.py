"""Sources of frames (cameras, files, sockets, the synthetic drive) and writers of decoded pictures."""
