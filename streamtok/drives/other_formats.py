"""Explain what is not read: formats of recorded images, and files beside videos that may hold their times."""

import itertools
import re
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

TIMES = re.compile(r"(time_?stamps?|(?<![a-z])(times|[rq]log))(?![a-z])", re.IGNORECASE)
TABLES = {"", ".csv", ".txt", ".json", ".jsonl", ".parquet", ".npy", ".log", *SUFFIXES}


def explain_unread_times(video: Path) -> str:
    """What lies near a video and may hold the times of its pictures, in words; empty if nothing does."""
    near = itertools.islice(itertools.chain(video.parent.glob("*"), video.parent.glob("*/frame_times*")), LOOKED_AT)
    found = sorted({file.name for file in near if file.suffix.lower() in TABLES and TIMES.search(file.stem)})
    if any((folder / "meta" / "info.json").is_file() for folder in video.absolute().parents[3:4]):
        found.append("the tables of LeRobot, whose videos may hold several episodes each")
    return f"not read, so that a video is timed from its own start: {', '.join(found[:5])}" if found else ""


def explain_format(path: Path) -> str:
    """What to do with a file or folder in a format that is not supported, in words; empty for any other."""
    files = itertools.islice(path.rglob("*"), LOOKED_AT) if path.is_dir() else ()
    for file in (path, *files):
        end = file.suffix.lower().partition("-")[0] or file.name  # .tfrecord-00000-of-00010
        for suffixes, (name, advice) in FORMATS.items():
            if end in suffixes:
                return f"{file.name} is {name}, which is not read here: {advice}"
    return ""
