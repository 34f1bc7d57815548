"""Tokens for other tools: WebDataset shards, Parquet tables, and the LeRobot v3 layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streamtok.tokens.lerobot import export_lerobot
from streamtok.tokens.options import ExportOptions
from streamtok.tokens.parquet import export_parquet
from streamtok.tokens.webdataset import export_webdataset

WRITERS = {"webdataset": export_webdataset, "parquet": export_parquet, "lerobot": export_lerobot}
FORMATS = tuple(WRITERS)


def export(source: Any, out: str | Path, to: str, options: ExportOptions | None = None) -> dict[str, int]:
    """Write the tokens of `source` (as TokenDataset takes it) into the new folder `out`; returns counts.

    `to` is one of FORMATS. Memory does not grow with the amount. ValueError if the folder is not empty, or if the files
    come from different tokenizers.
    """
    options = options or ExportOptions()
    if to not in FORMATS:
        raise ValueError(f"cannot export to {to!r}: expected one of {', '.join(FORMATS)}")
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder: give a new one")
    return WRITERS[to](source, out, options)
