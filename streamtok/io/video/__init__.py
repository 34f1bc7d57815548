"""Video files and streams: containers, decoding that drops damaged pictures, and the reader of files."""

from streamtok.io.video.reader import VideoReader

__all__ = ["VideoReader"]
