"""Which files are videos and which are pictures, by their names."""

VIDEO_SUFFIXES = (
    *(".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts"),
    *(".hevc", ".h265", ".265", ".h264", ".264"),
)
IMAGE_SUFFIXES = {f".{codec}": codec for codec in ("png", "jpeg", "webp", "bmp", "tiff", "pgm", "ppm")}
IMAGE_SUFFIXES |= {".jpg": "jpeg", ".tif": "tiff"}
"""Of files that are one picture, each with the name of its codec."""
