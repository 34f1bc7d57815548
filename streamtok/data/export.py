"""Tokens for other tools: WebDataset shards, Parquet tables, and the LeRobot v3 layout (`streamtok.data.lerobot`)."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from streamtok.data.dataset import TokenDataset
from streamtok.data.tracks import Grids, Track, find_drives, open_tracks, same_identity

FORMATS = ("webdataset", "parquet", "lerobot")
BLOCK = 256  # grids that are in memory at a time


@dataclass(frozen=True)
class ExportOptions:
    """What is exported and how it is cut.

    `streams` None is all; `window` grids make a WebDataset sample, `shard_samples` of those a shard; `fps` None takes
    what the files say, `task` is LeRobot's description of what happens; `video` decodes a picture per grid for LeRobot.
    """

    streams: Sequence[str] | None = None
    window: int = 16
    shard_samples: int = 1000
    fps: float | None = None
    task: str = "drive"
    video: bool = False
    model: str | None = None
    progress: bool = False


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
    if to == "webdataset":
        return export_webdataset(source, out, options)
    if to == "lerobot":
        from streamtok.data.lerobot import export_lerobot

        return export_lerobot(source, out, options)
    return export_parquet(source, out, options)


def export_webdataset(source: Any, out: Path, options: ExportOptions) -> dict[str, int]:
    """Shards `tokens-000000.tar`, ... of windows: KEY.tokens.npy (N, h, w), KEY.mask.npy (N,) bool, KEY.json.

    The JSON has stream, file, capture_ns, epoch and keyframe of each grid; `dataset.json` beside the shards says which
    tokenizer made them. Windows are cut as TokenDataset cuts them. The same tokens give the same bytes.
    """
    data = TokenDataset(source, options.window, streams=options.streams)
    out.mkdir(parents=True, exist_ok=True)
    shards = range(0, len(data), options.shard_samples)
    with tqdm(total=len(data), desc="webdataset", unit="window", disable=not options.progress) as bar:
        for number, first in enumerate(shards):
            with tarfile.open(out / f"tokens-{number:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
                for index in range(first, min(first + options.shard_samples, len(data))):
                    _add_sample(tar, f"{index:09d}", data[index])
                    bar.update()
    facts = {"format": "webdataset", "window": options.window, "samples": len(data), "shards": len(shards)}
    (out / "dataset.json").write_text(json.dumps(facts | _plain(data.identity), indent=2) + "\n")
    return {"samples": len(data), "shards": len(shards)}


def export_parquet(source: Any, out: Path, options: ExportOptions) -> dict[str, int]:
    """One table per stream and file, a row per grid: tokens as a fixed-size list, row-major, and what belongs to it.

    Columns: stream, session, epoch, keyframe, first_frame_id, last_frame_id, capture_ns, tokens. The schema's metadata
    has the tokenizer's fingerprint and the grid.
    """
    _, parquet = pyarrow()
    tracks = [track for paths in find_drives(source) for path in paths for track in open_tracks(path, options.streams)]
    identity = same_identity(tracks, source, options.streams)
    out.mkdir(parents=True, exist_ok=True)
    schema = _table_schema(identity)
    rows = 0
    total = sum(map(len, tracks))
    with tqdm(total=total, desc="parquet", unit="grid", disable=not options.progress) as bar:
        for number, track in enumerate(tracks):
            with parquet.ParquetWriter(out / f"{number:06d}_{track.stream}.parquet", schema) as writer:
                for grids in blocks(track):
                    writer.write_table(_table(grids, track.stream, schema))
                    bar.update(len(grids.epoch))
                    rows += len(grids.epoch)
    return {"rows": rows, "files": len(tracks)}


def blocks(track: Track, size: int = BLOCK) -> Iterator[Grids]:
    """All grids of a track in order, so many at a time."""
    for first in range(0, len(track), size):
        yield track.read(np.arange(first, min(first + size, len(track))))


def stretches(track: Track, size: int = BLOCK) -> Iterator[tuple[bool, np.ndarray, Grids]]:
    """All grids in order, cut at gaps: (whether these start a new stretch, their numbers, the grids)."""
    for first in range(0, len(track), size):
        # One more in front, to see whether this block goes on from the one before.
        indices = np.arange(max(0, first - 1), min(first + size, len(track)))
        grids = track.read(indices)
        follows = grids.follows()
        follows[0] = False
        skip = int(first > 0)
        cuts = sorted({skip, len(indices), *np.flatnonzero(~follows[skip:]) + skip})
        for start, end in itertools.pairwise(cuts):
            yield not follows[start], indices[start:end], part(grids, slice(start, end))


def part(grids: Grids, which: slice) -> Grids:
    """Some of the grids."""
    return Grids(**{field.name: getattr(grids, field.name)[which] for field in fields(Grids)})


def pyarrow() -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet; ImportError says how to get them."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("this export needs pyarrow: pip install 'streamtok[dataset]'") from error
    return pyarrow, pyarrow.parquet


def _add_sample(tar: tarfile.TarFile, key: str, item: dict[str, Any]) -> None:
    kind = np.float16 if item["tokens"].is_floating_point() else np.int32
    facts = {name: item[name].tolist() for name in ("capture_ns", "epoch", "keyframe")}
    facts |= {"stream": item["stream"], "file": Path(item["file"]).name}
    _add_file(tar, f"{key}.tokens.npy", _npy(item["tokens"].numpy().astype(kind)))
    _add_file(tar, f"{key}.mask.npy", _npy(item["mask"].numpy()))
    _add_file(tar, f"{key}.json", json.dumps(facts).encode())


def _add_file(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _plain(identity: dict[str, Any]) -> dict[str, Any]:
    return identity | {"grid": list(identity["grid"])}


def _table_schema(identity: dict[str, Any]) -> Any:
    arrow, _ = pyarrow()
    kinds = {"uint16": arrow.uint16(), "uint32": arrow.uint32(), "float16": arrow.float16()}
    integers = ("session", "epoch", "first_frame_id", "last_frame_id", "capture_ns")
    columns = [("stream", arrow.string()), *((name, arrow.int64()) for name in integers)]
    columns += [("keyframe", arrow.bool_())]
    columns += [("tokens", arrow.list_(kinds[identity["dtype"]], int(np.prod(identity["grid"]))))]
    return arrow.schema(columns, {"streamtok": json.dumps(_plain(identity))})


def _table(grids: Grids, stream: str, schema: Any) -> Any:
    arrow, _ = pyarrow()
    count = len(grids.epoch)
    flat = arrow.array(grids.tokens.reshape(-1), schema.field("tokens").type.value_type)
    columns = {
        "stream": [stream] * count,
        "session": grids.session,
        "epoch": grids.epoch,
        "first_frame_id": grids.first_id,
        "last_frame_id": grids.last_id,
        "capture_ns": grids.capture_ns,
        "keyframe": grids.keyframe,
        "tokens": arrow.FixedSizeListArray.from_arrays(flat, grids.tokens[0].size),
    }
    return arrow.table(columns, schema)
