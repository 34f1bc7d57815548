"""Tell videos and pictures by the suffixes of their names."""

from pathlib import Path

VIDEO_SUFFIXES = (
    *(".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".gif"),
    *(".hevc", ".h265", ".265", ".h264", ".264"),
)
IMAGE_SUFFIXES = {f".{codec}": codec for codec in ("png", "jpeg", "webp", "bmp", "tiff", "pgm", "ppm", "avif")}
IMAGE_SUFFIXES |= {".jpg": "jpeg", ".jpe": "jpeg", ".jfif": "jpeg", ".tif": "tiff", ".pnm": "ppm", ".npy": "npy"}
"""Suffixes of picture files, each with the name of its codec."""


def is_video(path: Path) -> bool:
    """Whether it is a video, and no folder or pipe. Hidden ones do not count: macOS writes ._NAME beside the files.

    A dangling link counts, so that opening it reports what is missing.
    """
    named = path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")
    return named and (path.is_file() or not path.exists())


def is_image(path: Path) -> bool:
    """Whether a file of a folder is a picture, by its name; see `is_video`."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
