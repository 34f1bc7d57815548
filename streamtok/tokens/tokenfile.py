"""Reads and writes token files: one stream's token grids with the times of their frames, in one safetensors file.

Columns, for N groups of F frames in all (group i holds frames `frame_start[i]` to `frame_start[i + 1]`):

    tokens       (N, h, w) U16 or U32, (N, C, h, w) F16 for continuous models; residual quantizers (N, Q, h, w)
    keyframe     (N,) BOOL      the group is one frame, coded as an image, and starts an epoch
    epoch        (N,) I64       increases at every reset of the encoder's state
    dropped      (N,) I64       frames lost since the previous group
    repeated     (N,) I64       frames added to fill the group; they have no entry among the frames
    frame_start  (N + 1,) I64
    frame_ids    (F,) I64
    capture_ns   (F,) I64       presentation or capture time

In a coded file three columns replace `tokens` (docs/wire-protocol.md, "Coded payloads"):

    coded        (B,) U8        the payloads of all grids
    coded_start  (N + 1,) I64   where each begins
    grid_crc32   (N,) I64       CRC-32 (zlib) of each grid before coding

The header's metadata says how they were made (fingerprint, config, sizes, the rectangle of the picture): text as it is,
everything else as JSON. `crc32` has the CRC-32 of each column's bytes. Any safetensors reader opens these files.
Writing takes constant memory: columns are spooled to temporary files beside the output, which appears under its name
only when it is complete.
"""

import contextlib
import json
import math
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from streamtok.coding.coder import TokenCoder
from streamtok.coding.library import Coders, coders_beside
from streamtok.names import name_errors
from streamtok.tokens.coded import CodedTokens, GroupCoder
from streamtok.tokens.file_header import pack_meta, read_columns, read_header, unpack_meta
from streamtok.types import TokenGroup

FORMAT, VERSION = "streamtok-tokens", 1
DTYPES = {"U8": "|u1", "U16": "<u2", "U32": "<u4", "F16": "<f2", "I64": "<i8", "BOOL": "|b1"}
CODES = {np.dtype(name): code for code, name in DTYPES.items()}
OTHERS = ("keyframe", "epoch", "dropped", "repeated", "frame_start", "frame_ids", "capture_ns")
COLUMNS = ("tokens", *OTHERS)
CODED_COLUMNS = ("coded", "coded_start", "grid_crc32", *OTHERS)


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
        self.meta = dict(meta)
        self.groups = self.frames = self.repeated = self.dropped = 0
        self._grid: tuple[tuple[int, ...], np.dtype] | None = None
        self._size = 0, 0
        self._coder = GroupCoder(coder, independent) if coder else None
        self._columns = CODED_COLUMNS if coder else COLUMNS
        if coder:
            self.meta |= {"coder": coder.fingerprint, "independent": independent}
        self._crc32 = dict.fromkeys(self._columns, 0)
        # Unnamed files beside the output: they are on the same disk, and a killed process leaves nothing behind.
        self._spools = {name: tempfile.TemporaryFile(dir=self.path.parent) for name in self._columns}  # noqa: SIM115

    def write(self, group: TokenGroup) -> None:
        """Append the next group; its picture size, grid shape and dtype must be those of the first."""
        tokens = np.ascontiguousarray(group.tokens)
        grid = (tokens.shape, tokens.dtype)
        if CODES.get(tokens.dtype) not in ("U16", "U32", "F16"):
            raise TypeError(f"token grid is {tokens.dtype}: expected uint16, uint32 or float16")
        if self._grid is not None and (*grid, group.image_size) != (*self._grid, self._size):
            raise ValueError(
                f"token grid {grid} of pictures of {group.image_size} does not match {self._grid} of {self._size} "
                "before it: a token file holds one size"
            )
        ids, times = len(group.frame_ids), len(group.capture_ns)
        if not ids or ids != times:
            raise ValueError(f"group has {ids} frame ids and {times} times: expected one each")
        self._grid, self._size = grid, group.image_size
        integers = {name: [getattr(group, name)] for name in ("epoch", "dropped", "repeated")}
        integers |= {"frame_start": [self.frames], "frame_ids": group.frame_ids, "capture_ns": group.capture_ns}
        if self._coder is None:
            self._put("tokens", tokens.tobytes())
        else:
            payload, start, checksum = self._coder.encode(group)
            self._put("coded", payload)
            integers |= {"coded_start": [start], "grid_crc32": [checksum]}
        self._put("keyframe", bytes([bool(group.keyframe)]))
        for name, values in integers.items():
            self._integers(name, values)
        self.groups += 1
        self.frames += ids
        self.repeated += group.repeated
        self.dropped += group.dropped

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
        self._integers("frame_start", [self.frames])
        if self._coder is not None:
            self._integers("coded_start", [self._coder.nbytes])
        self.meta["grid"] = self._grid[0]
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        try:
            with name_errors(self.path), open(partial, "wb") as out:
                self._assemble(out)
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
                spool.close()
        self._spools = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *rest: object) -> None:
        self.abort() if error_type else self.close()

    def _integers(self, name: str, values: list[int]) -> None:
        self._put(name, struct.pack(f"<{len(values)}q", *values))

    def _put(self, name: str, data: bytes) -> None:
        with name_errors(self.path):
            self._spools[name].write(data)
        self._crc32[name] = zlib.crc32(data, self._crc32[name])

    def _assemble(self, out: BinaryIO) -> None:
        shape, dtype = self._grid  # type: ignore[misc]
        counts = dict.fromkeys(self._columns, self.groups) | {"frame_start": self.groups + 1}
        counts |= {"frame_ids": self.frames, "capture_ns": self.frames, "coded_start": self.groups + 1}
        counts |= {"coded": self._coder.nbytes if self._coder else 0}
        kinds = dict.fromkeys(self._columns, "I64") | {"tokens": CODES[dtype], "keyframe": "BOOL", "coded": "U8"}
        counted = {name: getattr(self, name) for name in ("groups", "frames", "repeated", "dropped")}
        meta = self.meta | counted | {"format": FORMAT, "version": VERSION, "crc32": self._crc32}
        header: dict[str, Any] = {"__metadata__": pack_meta(meta)}
        # Widest dtype first, so that every column is aligned.
        order = sorted(self._columns, key=lambda name: (-np.dtype(DTYPES[kinds[name]]).itemsize, name))
        offset = 0
        for name in order:
            dims = [counts[name], *(shape if name == "tokens" else ())]
            size = int(np.prod(dims, dtype=np.int64)) * np.dtype(DTYPES[kinds[name]]).itemsize
            header[name] = {"dtype": kinds[name], "shape": dims, "data_offsets": [offset, offset + size]}
            offset += size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        out.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            self._spools[name].seek(0)
            shutil.copyfileobj(self._spools[name], out, 1 << 20)


class TokenFile:
    """Random access to a token file: opening reads only the header, and grids are read from disk on demand.

    `tokens` and the other columns are read-only arrays mapped from the file (see the module's table). Coded tokens are
    decoded from the preceding keyframe on, by a coder that ships or lies beside the file. `meta` is the header's
    metadata. Raises ValueError for a file that is cut off or not a token file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        header, self._start = read_header(self.path)
        self._columns = CODED_COLUMNS if "coded" in header else COLUMNS
        try:
            self.meta = unpack_meta(header.get("__metadata__", {}))
            if self.meta.get("format") != FORMAT:
                raise ValueError(f"this safetensors file holds no token stream (no format={FORMAT!r} in its header)")
            if (version := self.meta.get("version")) != VERSION:
                raise ValueError(f"it has token file version {version}: this release reads {VERSION}")
            self._layout = read_columns(header, self._columns)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error
        self._map()

    def __len__(self) -> int:
        return len(self.tokens)

    def __iter__(self) -> Iterator[TokenGroup]:
        return (self.group(index) for index in range(len(self)))

    def group(self, index: int) -> TokenGroup:
        """Group `index` as it was written, except for `encode_ns`: files do not store it, so it is 0."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path} has {len(self)} groups: no group {index}")
        frames = slice(int(self.frame_start[index]), int(self.frame_start[index + 1]))
        return TokenGroup(
            stream=str(self.meta.get("stream", "cam0")),
            tokens=np.array(self.tokens[index]),
            keyframe=bool(self.keyframe[index]),
            epoch=int(self.epoch[index]),
            frame_ids=self.frame_ids[frames].tolist(),
            capture_ns=self.capture_ns[frames].tolist(),
            dropped=int(self.dropped[index]),
            repeated=int(self.repeated[index]),
            encode_ns=0,
            image_size=tuple(self.meta.get("image_size", (0, 0))),
        )

    def check(self) -> None:
        """Compare all columns with their checksums; ValueError names a damaged one."""
        for name, expected in self.meta.get("crc32", {}).items():
            if name in self._columns and zlib.crc32(self._arrays[name].data) != expected:
                raise ValueError(f"{self.path} is damaged: the checksum of column {name!r} is wrong; write it again")
        self.check_frames()

    def check_frames(self) -> None:
        """Raise ValueError unless `frame_start` gives each group at least one frame, and all frames to groups."""
        begins, ends = self.frame_start[:-1], self.frame_start[1:]
        if self.frame_start[0] != 0 or np.any(ends <= begins) or self.frame_start[-1] != len(self.frame_ids):
            raise ValueError(f"{self.path} is damaged: its groups do not share out its {len(self.frame_ids)} frames")

    def _map(self) -> None:
        size = self.path.stat().st_size
        memory: np.ndarray | None = None  # one mapping for all columns, since each mapping holds a file open
        columns = {}
        for name, entry in self._layout.items():
            dtype = np.dtype(DTYPES[entry.dtype])
            begin, end = entry.data_offsets
            wanted = math.prod(entry.shape) * dtype.itemsize
            if end - begin != wanted or self._start + end > size:
                needs = f"column {name!r} needs {wanted} bytes up to byte {self._start + end}, the file has {size}"
                raise ValueError(f"{self.path} is cut off or damaged: {needs}")
            memory = np.memmap(self.path, np.uint8, "r", self._start) if memory is None else memory
            columns[name] = memory[begin:end].view(dtype).reshape(entry.shape)
        self._arrays = columns
        self.tokens: np.ndarray | CodedTokens = self._open_tokens(columns)
        self.keyframe, self.epoch, self.dropped, self.repeated, *frames = (columns[name] for name in OTHERS)
        self.frame_start, self.frame_ids, self.capture_ns = frames

    def _open_tokens(self, columns: dict[str, np.ndarray]) -> np.ndarray | CodedTokens:
        if "tokens" in columns:
            return columns["tokens"]
        coder = Coders(coders_beside(self.path)).find(self.meta["coder"])
        return CodedTokens(columns, self.meta, coder)

    def __getstate__(self) -> dict[str, Any]:
        # Pickling a mapped array would copy its content, so workers map the file themselves.
        return {name: self.__dict__[name] for name in ("path", "meta", "_layout", "_start", "_columns")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()


def is_token_file(path: str | Path) -> bool:
    """Whether `path` is a safetensors file whose header names our format; False for a broken one."""
    try:
        header, _ = read_header(Path(path))
        return unpack_meta(header.get("__metadata__", {})).get("format") == FORMAT
    except (OSError, ValueError):
        return False
