"""Explain formats of recorded images that are not supported, and how to convert them to a drive."""

import itertools
from pathlib import Path

from streamtok.recording.packing import SUFFIXES

LOOKED_AT = 1000  # files of a folder, at most
AS_FILES = "write its images as files with timestamps.txt beside them, a folder for each camera"
FORMATS = {
    (".h5", ".hdf5"): ("HDF5", f"{AS_FILES} (h5py reads it)"),
    (".zarr", ".zgroup", ".zarray"): ("Zarr", f"{AS_FILES} (zarr reads it)"),
    (".tfrecord",): ("TFRecord", f"{AS_FILES} (tensorflow_datasets reads RLDS, waymo-open-dataset Waymo)"),
    (".parquet",): ("Parquet", f"name the videos beside it (LeRobot's), or {AS_FILES} (pyarrow reads it)"),
    (".rrd",): ("of Rerun", f"{AS_FILES} (rerun reads it)"),
    (".npz",): ("of NumPy", f"{AS_FILES} (numpy.load reads it)"),
    (".tar", ".tgz", ".zip", ".7z", ".rar", *SUFFIXES): ("an archive", "unpack it"),
}
"""{suffixes: (format, what to do)}"""


def explain_format(path: Path) -> str:
    """What to do with a file or folder in a format that is not supported, in words; empty for any other."""
    files = itertools.islice(path.rglob("*"), LOOKED_AT) if path.is_dir() else ()
    for file in (path, *files):
        end = file.suffix.lower().partition("-")[0] or file.name  # .tfrecord-00000-of-00010
        for suffixes, (name, advice) in FORMATS.items():
            if end in suffixes:
                return f"{file.name} is {name}, which is not read here: {advice}"
    return ""
