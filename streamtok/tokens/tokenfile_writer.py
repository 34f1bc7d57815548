"""Writes token files, whose format `tokenfile` describes, in constant memory: columns are spooled to unnamed files.

The output appears under its name only when it is complete.
"""

import contextlib
import json
import math
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from streamtok.coding.coder import TokenCoder
from streamtok.names import check_replaceable, name_errors
from streamtok.tokens.file_header import pack_meta
from streamtok.tokens.tokenfile import CODED_COLUMNS, CODES, COLUMNS, DTYPES, FORMAT, VERSION
from streamtok.types import TokenGroup
from streamtok.wire.coded import GridCoder


class Spool:
    """One column of a file that is being written, in an unnamed file beside the output.

    There it is on the same disk, and a killed process leaves nothing behind.
    """

    def __init__(self, folder: Path) -> None:
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self.nbytes = self.crc32 = 0

    def add(self, data: bytes) -> None:
        self.file.write(data)
        self.nbytes += len(data)
        self.crc32 = zlib.crc32(data, self.crc32)

    def add_integers(self, *values: int) -> None:
        self.add(struct.pack(f"<{len(values)}q", *values))


class TokenFileWriter:
    """Writes the groups of one stream; `close` (or leaving the `with`) makes the file appear, an error leaves none.

    `meta` goes into the header; `format`, `version`, `groups`, `frames`, `repeated`, `dropped` and `crc32` are added.
    With `coder` the grids are coded, each by itself if `independent`.
    """

    def __init__(
        self, path: str | Path, meta: Mapping[str, Any], coder: TokenCoder | None = None, independent: bool = False
    ) -> None:
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"{self.path}: folder {self.path.parent} does not exist; create it first")
        check_replaceable(self.path)
        self.meta = dict(meta)
        self.groups = self.frames = self.repeated = self.dropped = 0
        self._grid: tuple[tuple[int, ...], np.dtype] | None = None
        self._size = 0, 0
        self._coder = GridCoder(coder, independent) if coder else None
        if coder:
            self.meta |= {"coder": coder.fingerprint, "independent": independent}
        self._spools = {name: Spool(self.path.parent) for name in (CODED_COLUMNS if coder else COLUMNS)}

    def write(self, group: TokenGroup) -> None:
        """Append the next group; its picture size, grid shape and dtype must be those of the first."""
        tokens = np.ascontiguousarray(group.tokens)
        grid = (tokens.shape, tokens.dtype)
        if CODES.get(tokens.dtype) not in ("U16", "U32", "F16"):
            raise TypeError(f"token grid is {tokens.dtype}: expected uint16, uint32 or float16")
        if tokens.ndim < 2 or not tokens.size:
            raise ValueError(f"token grid has shape {tokens.shape}: expected (h, w), or (Q, h, w), none of them 0")
        if self._grid is not None and (*grid, group.image_size) != (*self._grid, self._size):
            raise ValueError(
                f"token grid {grid} of pictures of {group.image_size} does not match {self._grid} of {self._size} "
                "before it: a token file holds one size"
            )
        ids, times = len(group.frame_ids), len(group.capture_ns)
        if not ids or ids != times:
            raise ValueError(f"group has {ids} frame ids and {times} times: expected one each")
        self._grid, self._size = grid, group.image_size
        with name_errors(self.path):
            self._spool(group, tokens)
        self.groups += 1
        self.frames += ids
        self.repeated += group.repeated
        self.dropped += group.dropped

    def _spool(self, group: TokenGroup, tokens: np.ndarray) -> None:
        """Append a group to the columns; `tokens` is its grid, contiguous."""
        spools = self._spools
        if self._coder is None:
            spools["tokens"].add(tokens.tobytes())
        else:
            payload, coding = self._coder.encode(group.tokens, group.keyframe)
            self._coder.note_sent()
            spools["coded_start"].add_integers(spools["coded"].nbytes)
            spools["coded"].add(payload)
            spools["grid_crc32"].add_integers(coding.checksum)
        spools["keyframe"].add(bytes([bool(group.keyframe)]))
        spools["frame_start"].add_integers(self.frames)
        spools["frame_ids"].add_integers(*group.frame_ids)
        spools["capture_ns"].add_integers(*group.capture_ns)
        for name in ("epoch", "dropped", "repeated"):
            spools[name].add_integers(getattr(group, name))

    @property
    def grid_shape(self) -> tuple[int, ...]:
        """The shape of one group's tokens, () before the first."""
        return self._grid[0] if self._grid else ()

    def close(self) -> None:
        """Assemble the file from the spools and move it into place; ValueError if no group was written."""
        if not self._spools:
            return
        if self._grid is None:
            self.abort()
            raise ValueError(f"{self.path}: no token group was written: there was no frame that could be encoded")
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        try:
            with name_errors(self.path), open(partial, "wb") as out:
                self._assemble(out, *self._grid)
                out.flush()
                os.fsync(out.fileno())
            os.replace(partial, self.path)
        finally:
            partial.unlink(missing_ok=True)
            self.abort()

    def abort(self) -> None:
        """Discard the spools; the file does not appear."""
        for spool in self._spools.values():
            with contextlib.suppress(OSError):  # closing flushes, which fails on a full disk
                spool.file.close()
        self._spools = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *rest: object) -> None:
        self.abort() if error_type else self.close()

    def _assemble(self, out: BinaryIO, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """Write header and columns; `shape` and `dtype` are those of a grid."""
        self._spools["frame_start"].add_integers(self.frames)
        if self._coder is not None:
            self._spools["coded_start"].add_integers(self._spools["coded"].nbytes)
        self.meta["grid"] = shape
        counted = {name: getattr(self, name) for name in ("groups", "frames", "repeated", "dropped")}
        checksums = {name: spool.crc32 for name, spool in self._spools.items()}
        meta = self.meta | counted | {"format": FORMAT, "version": VERSION, "crc32": checksums}
        header: dict[str, Any] = {"__metadata__": pack_meta(meta)}
        kinds = dict.fromkeys(self._spools, "I64") | {"tokens": CODES[dtype], "keyframe": "BOOL", "coded": "U8"}
        widths = {name: np.dtype(DTYPES[kinds[name]]).itemsize for name in self._spools}
        order = sorted(self._spools, key=lambda name: (-widths[name], name))  # the widest first: all are aligned
        offset = 0
        for name in order:
            nbytes, inner = self._spools[name].nbytes, shape if name == "tokens" else ()
            dims = [nbytes // (widths[name] * math.prod(inner)), *inner]
            header[name] = {"dtype": kinds[name], "shape": dims, "data_offsets": [offset, offset + nbytes]}
            offset += nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        out.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            self._spools[name].file.seek(0)
            shutil.copyfileobj(self._spools[name].file, out, 1 << 20)
