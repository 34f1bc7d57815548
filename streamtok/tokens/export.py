"""Exports tokens for other tools: WebDataset shards, Parquet tables, and the LeRobot v3 layout."""

import tempfile
from pathlib import Path

from streamtok.extras import needs_extra
from streamtok.names import name_errors
from streamtok.tokens.options import ExportOptions
from streamtok.tokens.tracks import TokenSource
from streamtok.tokens.webdataset import export_webdataset

FORMATS = ("webdataset", "parquet", "lerobot")


def export(source: TokenSource, out: str | Path, to: str, options: ExportOptions | None = None) -> dict[str, int]:
    """Write the tokens of `source` into the new folder `out` in the format `to`, one of FORMATS; returns counts.

    It takes constant memory, and leaves no files after an error. Raises ValueError if the folder is not empty, or if
    the files come from different tokenizers.
    """
    options, out = options or ExportOptions(), Path(out)
    if to not in FORMATS:
        raise ValueError(f"cannot export to {to!r}: expected one of {', '.join(FORMATS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        held = next(out.iterdir()).name if out.is_dir() else "a file"
        raise ValueError(f"{out} exists and holds {held}: give a new folder, or empty it")
    if to == "webdataset":
        write = export_webdataset
    else:
        with needs_extra("this export", "dataset"):
            from streamtok.tokens.lerobot import export_lerobot
            from streamtok.tokens.parquet import export_parquet
        write = export_parquet if to == "parquet" else export_lerobot
    out.mkdir(parents=True, exist_ok=True)
    with name_errors(out), tempfile.TemporaryDirectory(prefix=".unfinished-", dir=out) as unfinished:
        counts = write(source, Path(unfinished), options)
        for path in Path(unfinished).iterdir():
            path.rename(out / path.name)
    return counts
