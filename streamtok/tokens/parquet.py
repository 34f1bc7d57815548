"""Exports tokens as Parquet tables with one row per grid."""

import json
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import parquet
from tqdm import tqdm

from streamtok.names import check_stream_name
from streamtok.tokens.grids import Grids, Track, read_blocks
from streamtok.tokens.options import ExportOptions
from streamtok.tokens.tracks import Facts, TokenSource, open_drives, read_facts

INTEGERS = ("session", "epoch", "first_frame_id", "last_frame_id", "capture_ns", "time_ns")


def export_parquet(source: TokenSource, out: Path, options: ExportOptions) -> dict[str, int]:
    """Write one table per stream and file, with a row per grid; returns counts.

    Columns: file (with its folder), stream, session, epoch, first_frame_id, last_frame_id, capture_ns, time_ns,
    keyframe, tokens (a fixed-size list, row-major). The schema's metadata has the tokenizer's fingerprint, name and
    FSQ levels, and the grid.
    """
    tracks = [track for drive in open_drives(source, options.streams) for track in drive]
    schema = _make_schema(read_facts(tracks[0]))
    rows = sum(map(len, tracks))
    with tqdm(None, "parquet", rows, unit="grid", disable=options.quiet or None) as bar:
        for number, track in enumerate(tracks):
            name = f"{number:06d}_{check_stream_name(track.stream)}.parquet"
            with parquet.ParquetWriter(out / name, schema) as writer:
                for grids in read_blocks(track):
                    writer.write_table(_make_table(grids, track, schema))
                    bar.update(len(grids.epoch))
    return {"rows": rows, "files": len(tracks)}


def _make_schema(facts: Facts) -> pyarrow.Schema:
    kind = getattr(pyarrow, facts["dtype"])()
    columns = [(name, pyarrow.string()) for name in ("file", "stream")]
    columns += [(name, pyarrow.int64()) for name in INTEGERS]
    columns += [("keyframe", pyarrow.bool_()), ("tokens", pyarrow.list_(kind, int(np.prod(facts["grid"]))))]
    return pyarrow.schema(columns, {"streamtok": json.dumps(facts)})


def _make_table(grids: Grids, track: Track, schema: pyarrow.Schema) -> pyarrow.Table:
    count = len(grids.epoch)
    flat = pyarrow.array(grids.tokens.reshape(-1), schema.field("tokens").type.value_type)
    columns = {name: getattr(grids, name) for name in ("session", "epoch", "capture_ns", "time_ns", "keyframe")}
    columns |= {"file": [track.file] * count, "stream": [track.stream] * count}
    columns |= {"first_frame_id": grids.first_id, "last_frame_id": grids.last_id}
    columns |= {"tokens": pyarrow.FixedSizeListArray.from_arrays(flat, grids.tokens[0].size)}
    return pyarrow.table(columns, schema)
