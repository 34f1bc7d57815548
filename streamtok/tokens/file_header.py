"""Reads and writes headers of token files, which are safetensors headers: metadata as text, and the column layout."""

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from streamtok.names import as_utf8
from streamtok.wire.header import Count, Grid, Size, Sizes, Time

TEXT_KEYS = ("format", "tokenizer", "coder", "model", "stream", "source", "clock")
LONGEST_HEADER = 100_000_000


class Column(msgspec.Struct, frozen=True):
    """The dtype, shape and place of a column; offsets are in bytes from the end of the header."""

    dtype: Literal["U8", "U16", "U32", "F16", "I64", "BOOL"]
    shape: Annotated[list[Count], Meta(min_length=1, max_length=4)]
    data_offsets: tuple[Count, Count]


class KnownMeta(msgspec.Struct, frozen=True):
    """The types of the metadata that readers rely on."""

    crc32: dict[str, Count] = {}
    image_size: Sizes | None = None
    source_rect: Annotated[list[Count], Meta(min_length=4, max_length=4)] | None = None
    grid: Grid | None = None
    levels: list[Size] | None = None
    config: dict[str, Any] = {}
    context: Size | None = None
    fps: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    clock_offset_ns: Time = 0


def pack_meta(meta: Mapping[str, Any]) -> dict[str, str]:
    """Metadata as safetensors stores it: strings only, in a fixed order."""
    return {
        key: as_utf8(str(meta[key])) if key in TEXT_KEYS else json.dumps(meta[key], sort_keys=True)
        for key in sorted(meta)
    }


def unpack_meta(meta: object) -> dict[str, Any]:
    """Invert `pack_meta` (tuples come back as lists); ValueError for metadata that it would not have written."""
    try:
        text = msgspec.convert(meta, dict[str, str])
        values = {key: value if key in TEXT_KEYS else json.loads(value) for key, value in text.items()}
        msgspec.convert({key: values[key] for key in KnownMeta.__struct_fields__ if key in values}, KnownMeta)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ValueError(f"metadata: {error}") from error
    return values


def read_columns(header: Mapping[str, Any], names: Sequence[str]) -> dict[str, Column]:
    """The named columns of a header; ValueError if one is missing, or its dtype or shape does not fit the others."""
    missing = [name for name in names if name not in header]
    if missing:
        raise ValueError(f"columns {missing} are missing; write the file again")
    try:
        columns = {name: msgspec.convert(header[name], Column) for name in names}
    except msgspec.ValidationError as error:
        raise ValueError(f"a column is not described as one: {error}") from error
    groups, frames = columns["keyframe"].shape[0], columns["frame_ids"].shape[0]
    kinds = {"tokens": ("U16", "U32", "F16"), "keyframe": ("BOOL",), "coded": ("U8",)}
    lengths = {"frame_start": groups + 1, "coded_start": groups + 1, "frame_ids": frames, "capture_ns": frames}
    for name, column in columns.items():
        length = column.shape[0] if name == "coded" else lengths.get(name, groups)
        fits = groups and column.shape[0] == length and column.dtype in kinds.get(name, ("I64",))
        if not fits or len(column.shape) not in ((3, 4) if name == "tokens" else (1,)):
            what = f"{column.dtype} {column.shape}"
            raise ValueError(f"column {name!r} is {what}, of {groups} groups and {frames} frames; write the file again")
    return columns


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Read the header of a safetensors file; returns it and the byte where columns begin. ValueError if it is none."""
    with open(path, "rb") as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        text = file.read(length) if 2 <= length <= LONGEST_HEADER else b""
    if len(text) != length or not text.startswith(b"{"):
        raise ValueError(f"{path} is no safetensors file (or cut off within its header)")
    try:
        return json.loads(text), 8 + length
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its safetensors header does not parse: {error}") from error
