"""Formats of recorded images that are not read here, and what makes a drive of them."""

import itertools
from pathlib import Path
from typing import NamedTuple

from streamtok.recording.packing import SUFFIXES, read_head

LOOKED_AT = 1000  # files of a folder


class OtherFormat(NamedTuple):
    """A format, by how its files end or begin, and what to do with it."""

    name: str
    suffixes: tuple[str, ...]
    head: bytes
    advice: str


AS_FILES = "write its images as files with timestamps.txt beside them, a folder for each camera"
FORMATS = (
    OtherFormat("HDF5", (".h5", ".hdf5"), b"\x89HDF\r\n\x1a\n", f"{AS_FILES} (h5py reads it)"),
    OtherFormat("Zarr", (".zarr", ".zgroup", ".zarray"), b"", f"{AS_FILES} (zarr reads it)"),
    OtherFormat(
        "TFRecord", (".tfrecord",), b"", f"{AS_FILES} (tensorflow_datasets reads RLDS, waymo-open-dataset Waymo)"
    ),
    OtherFormat("Parquet", (".parquet",), b"PAR1", f"name the videos beside it (LeRobot's), or {AS_FILES} (pyarrow)"),
    OtherFormat("Rerun", (".rrd",), b"RRF", f"{AS_FILES} (rerun reads it)"),
    OtherFormat("a NumPy archive", (".npz",), b"", f"{AS_FILES} (numpy.load reads it)"),
    OtherFormat("an archive", (".tar", ".tgz", ".zip", ".7z", ".rar", *SUFFIXES), b"PK\x03\x04", "unpack it"),
)


def explain_format(path: Path) -> str:
    """What to do with a file or folder in a format that is not read here, in words; empty for any other."""
    files = itertools.islice(path.rglob("*"), LOOKED_AT) if path.is_dir() else ()
    for file in (path, *files):
        ends = [suffix.lower().partition("-")[0] for suffix in file.suffixes] or [file.name]
        head = read_head(file, 8) if file == path and path.is_file() else b""
        for form in FORMATS:
            if not set(ends).isdisjoint(form.suffixes) or (form.head and head.startswith(form.head)):
                return f"{file.name} is {form.name}, which is not read here: {form.advice}"
    return ""
