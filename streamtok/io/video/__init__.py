"""Video files and streams: containers, decoding that leaves out damage, and one reader of files."""

from streamtok.io.video.reader import VideoReader

__all__ = ["VideoReader"]
