"""Tokens as Parquet tables, a row per grid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from streamtok.tokens.grids import Grids, Track, blocks
from streamtok.tokens.options import ExportOptions
from streamtok.tokens.progress import progress_bar
from streamtok.tokens.tracks import facts_of, open_drives


def export_parquet(source: Any, out: Path, options: ExportOptions) -> dict[str, int]:
    """One table per stream and file, a row per grid: tokens as a fixed-size list, row-major, and what belongs to it.

    Columns: file (with its folder), stream, session, epoch, first_frame_id, last_frame_id, capture_ns, time_ns,
    keyframe, tokens. The schema's metadata has the tokenizer's fingerprint, name and FSQ levels, and the grid.
    """
    _, parquet = pyarrow()
    tracks = [track for drive in open_drives(source, options.streams) for track in drive]
    out.mkdir(parents=True, exist_ok=True)
    schema = _table_schema(facts_of(tracks[0]))
    rows = 0
    total = sum(map(len, tracks))
    with progress_bar("parquet", total=total, unit="grid", shown=options.progress) as bar:
        for number, track in enumerate(tracks):
            with parquet.ParquetWriter(out / f"{number:06d}_{track.stream}.parquet", schema) as writer:
                for grids in blocks(track):
                    writer.write_table(_table(grids, track, schema))
                    bar.update(len(grids.epoch))
                    rows += len(grids.epoch)
    return {"rows": rows, "files": len(tracks)}


def pyarrow() -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet; ImportError says how to get them."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("this export needs pyarrow: pip install 'streamtok[dataset]'") from error
    return pyarrow, pyarrow.parquet


def _table_schema(facts: dict[str, Any]) -> Any:
    arrow, _ = pyarrow()
    kinds = {"uint16": arrow.uint16(), "uint32": arrow.uint32(), "float16": arrow.float16()}
    integers = ("session", "epoch", "first_frame_id", "last_frame_id", "capture_ns", "time_ns")
    columns = [("file", arrow.string()), ("stream", arrow.string()), *((name, arrow.int64()) for name in integers)]
    columns += [("keyframe", arrow.bool_())]
    columns += [("tokens", arrow.list_(kinds[facts["dtype"]], int(np.prod(facts["grid"]))))]
    return arrow.schema(columns, {"streamtok": json.dumps(facts)})


def _table(grids: Grids, track: Track, schema: Any) -> Any:
    arrow, _ = pyarrow()
    count = len(grids.epoch)
    flat = arrow.array(grids.tokens.reshape(-1), schema.field("tokens").type.value_type)
    columns = {
        "file": [track.file] * count,
        "stream": [track.stream] * count,
        "session": grids.session,
        "epoch": grids.epoch,
        "first_frame_id": grids.first_id,
        "last_frame_id": grids.last_id,
        "capture_ns": grids.capture_ns,
        "time_ns": grids.time_ns,
        "keyframe": grids.keyframe,
        "tokens": arrow.FixedSizeListArray.from_arrays(flat, grids.tokens[0].size),
    }
    return arrow.table(columns, schema)
