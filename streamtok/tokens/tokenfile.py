"""Reads token files: one stream's token grids with the times of their frames, in one safetensors file.

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
`tokenfile_writer` writes them.
"""

import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from streamtok.coding.coder import CodingError, TokenCoder
from streamtok.coding.epochs import CodedGrid, EpochReader
from streamtok.coding.library import Coders, coders_beside
from streamtok.tokens.file_header import read_columns, read_header, unpack_meta
from streamtok.types import TokenGroup

FORMAT, VERSION = "streamtok-tokens", 1
TOKEN_SUFFIX = ".safetensors"
DTYPES = {"U8": "|u1", "U16": "<u2", "U32": "<u4", "F16": "<f2", "I64": "<i8", "BOOL": "|b1"}
CODES = {np.dtype(name): code for code, name in DTYPES.items()}
OTHERS = ("keyframe", "epoch", "dropped", "repeated", "frame_start", "frame_ids", "capture_ns")
COLUMNS = ("tokens", *OTHERS)
CODED_COLUMNS = ("coded", "coded_start", "grid_crc32", *OTHERS)


class CodedTokens:
    """A lazy array of tokens (N, h, w): an index, a slice or an index array decodes only the grids that it needs.

    `columns` are `coded`, `coded_start`, `grid_crc32` and `keyframe` of the file at `path`. Raises CodingError, which
    names file and group, for damage.
    """

    def __init__(self, path: Path, columns: Mapping[str, np.ndarray], meta: Mapping[str, Any], coder: TokenCoder):
        self.path = path
        self.shape = (len(columns["keyframe"]), *meta["grid"])
        self.dtype = coder.dtype
        self._columns, self._coder, self._alone = columns, coder, bool(meta.get("independent"))
        self._epochs = EpochReader(self._load)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | np.integer | slice | np.ndarray) -> np.ndarray:
        """The grid (h, w) at an index, or grids (n, h, w) for a slice or an array of n indices."""
        if isinstance(index, int | np.integer):
            return self._read(range(len(self))[index])
        chosen = np.arange(len(self))[index]
        grids = [self._read(int(number)) for number in chosen]
        return np.stack(grids) if grids else np.zeros((0, *self.shape[1:]), self.dtype)

    def _read(self, index: int) -> np.ndarray:
        try:
            return self._epochs.read(index)
        except CodingError as error:
            raise CodingError(f"{self.path} is damaged, at group {index}: {error}") from error

    def _load(self, index: int) -> CodedGrid:
        first, last = self._columns["coded_start"][index : index + 2]
        payload = self._columns["coded"][first:last].tobytes()
        alone = self._alone or bool(self._columns["keyframe"][index])
        checksum = int(self._columns["grid_crc32"][index])
        return CodedGrid(payload, self.shape[1:], checksum, alone, (index,), self._coder)


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

    def check(self, tokens: bool = True) -> None:
        """Compare columns with their checksums, all or all but the `tokens`; ValueError names a damaged one.

        Each group must have at least one frame, and each frame a group.
        """
        checked = self._columns if tokens else OTHERS
        for name, expected in self.meta.get("crc32", {}).items():
            if name in checked and zlib.crc32(self._arrays[name].data) != expected:
                raise ValueError(f"{self.path} is damaged: the checksum of column {name!r} is wrong; write it again")
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
        self.tokens: np.ndarray | CodedTokens
        if "tokens" in columns:
            self.tokens = columns["tokens"]
        else:
            coder = Coders(coders_beside(self.path)).find(self.meta["coder"])
            self.tokens = CodedTokens(self.path, columns, self.meta, coder)
        self.keyframe, self.epoch, self.dropped, self.repeated, *frames = (columns[name] for name in OTHERS)
        self.frame_start, self.frame_ids, self.capture_ns = frames

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)  # pickling a mapped array would copy its content


def is_token_file(path: str | Path) -> bool:
    """Whether `path` is a safetensors file whose header names our format, or is named as one and has no whole header.

    Opening the latter says what is wrong with it. Whole safetensors files of something else are none.
    """
    path = Path(path)
    try:
        header, _ = read_header(path)
    except (OSError, ValueError):
        return path.suffix == TOKEN_SUFFIX and not path.is_dir()
    meta = header.get("__metadata__")
    return isinstance(meta, dict) and meta.get("format") == FORMAT
