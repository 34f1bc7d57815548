"""Which files are videos and which are pictures, by their names."""

VIDEO_SUFFIXES = (
    *(".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts"),
    *(".hevc", ".h265", ".265", ".h264", ".264"),
)
IMAGE_SUFFIXES = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
    ".bmp": "bmp",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".pgm": "pgm",
    ".ppm": "ppm",
}
"""Of files that are one picture, each with the name of its codec."""
