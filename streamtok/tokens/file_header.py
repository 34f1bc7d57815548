"""The headers of token files, which are those of safetensors files: metadata as text, and where each column lies."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streamtok.names import as_utf8

TEXT_KEYS = ("format", "tokenizer", "coder", "model", "stream", "source", "clock")
LONGEST_HEADER = 100_000_000


def pack_meta(meta: Mapping[str, Any]) -> dict[str, str]:
    """Metadata as safetensors wants it: strings only, in a fixed order."""
    return {
        key: as_utf8(str(meta[key])) if key in TEXT_KEYS else json.dumps(meta[key], sort_keys=True)
        for key in sorted(meta)
    }


def unpack_meta(meta: Mapping[str, str]) -> dict[str, Any]:
    """The values `pack_meta` was given (tuples come back as lists)."""
    return {key: value if key in TEXT_KEYS else json.loads(value) for key, value in meta.items()}


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and where its columns begin; ValueError for what is none."""
    with open(path, "rb") as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        text = file.read(length) if 2 <= length <= LONGEST_HEADER else b""
    if len(text) != length or not text.startswith(b"{"):
        raise ValueError(f"{path} is no safetensors file (or cut off within its header)")
    try:
        return json.loads(text), 8 + length
    except ValueError as error:
        raise ValueError(f"{path}: its safetensors header does not parse: {error}") from error
