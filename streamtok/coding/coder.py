"""The token coder of one tokenizer, grids to bytes and back, and its file. `network` predicts, `range_coder` codes."""

import hashlib
import itertools
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from streamtok.coding.alphabet import make_alphabet
from streamtok.coding.arithmetic import Arithmetic, choose_arithmetic, one_thread
from streamtok.coding.network import GRIDS_BEFORE, CoderNetwork, Tensors
from streamtok.coding.range_coder import CodingError, RangeDecoder, encode_range

FILE = "coder.safetensors"
FORMAT = "streamtok-token-coder-1"
MOST_CELLS = 1 << 18  # of a grid: enough for 8K video, and a few seconds on one core
MOST_BYTES = 3  # per symbol


@dataclass(frozen=True)
class Past:
    """The state of a stream: symbols uint8 (h * w, groups) of its epoch's last three grids or fewer, newest first.

    Cells are in coding order. A fresh stream has no grids. It is immutable, so keeping it is a snapshot; every stream
    has its own.
    """

    grids: tuple[np.ndarray, ...] = ()
    size: tuple[int, int] | None = None

    def match(self, size: tuple[int, int]) -> tuple[np.ndarray, ...]:
        """The grids, or none if they are not of this size (h, w)."""
        return self.grids if size == self.size else ()

    def follow(self, symbols: np.ndarray, size: tuple[int, int]) -> "Past":
        """The past of the grid after that of `symbols`, uint8 (h * w, groups)."""
        return Past((symbols, *self.match(size))[:GRIDS_BEFORE], size)


FRESH = Past()


def grid_checksum(tokens: np.ndarray) -> int:
    """zlib CRC-32 of the bytes of a grid (h, w) in an uncompressed payload: row-major, little-endian."""
    return zlib.crc32(np.ascontiguousarray(tokens, tokens.dtype.newbyteorder("<")).tobytes())


class TokenCoder:
    """Codes the token grids of one tokenizer, whose fingerprint is `tokenizer`; `fingerprint` is the coder's own.

    `encode` and `decode` are pure functions of a grid, or its bytes, and of the past. Give `FRESH` at a keyframe and
    after a gap; given always, it makes every grid decodable by itself. The bytes do not depend on `arithmetic`, by
    default the faster one. ValueError for tensors that do not fit each other.
    """

    def __init__(self, levels: Sequence[int], tokenizer: str, tensors: Tensors, arithmetic: Arithmetic | None = None):
        self.levels = tuple(levels)
        self.alphabet = make_alphabet(self.levels, tensors.get("words"))
        self.tokenizer = tokenizer
        self.tensors = dict(sorted(tensors.items()))
        try:
            self.network = CoderNetwork(self.alphabet, tensors, arithmetic or choose_arithmetic())
        except KeyError as error:
            raise ValueError(f"tensor {error} is missing") from None

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits of SHA-256 over levels, tokenizer and tensors."""
        digest = hashlib.sha256(json.dumps([FORMAT, self.levels, self.tokenizer]).encode())
        for name, tensor in self.tensors.items():
            digest.update(f"{name} {tensor.dtype.name} {tensor.shape}".encode())
            digest.update(np.ascontiguousarray(tensor).astype(tensor.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()[:32]

    def encode(self, grid: np.ndarray, past: Past = FRESH) -> tuple[bytes, Past]:
        """Tokens (h, w), any integer dtype -> their bytes, and the next grid's past. ValueError for other grids."""
        self._check(grid)
        with one_thread(self.network.arithmetic):
            return self._encode(grid, past)

    def _encode(self, grid: np.ndarray, past: Past) -> tuple[bytes, Past]:
        network, glance = self.network, self.network.look_back(past.match(grid.shape), *grid.shape)
        phases, known = glance.phases, network.blank(glance.phases)
        tokens = grid.ravel().take(phases.order)
        ordered = self.alphabet.split(tokens, glance.before)
        known[phases.inside] = network.say_around(ordered, glance.before)
        for group in range(len(self.alphabet.sizes) - 1):
            network.say_later(group, ordered[:, group], glance.before[:, group], glance.heads)
        logits = [np.empty((size, grid.size), network.sums) for size in self.alphabet.sizes]
        cells = [slice(*phases.cuts[phase : phase + 2]) for phase in range(len(phases.neighbours))]
        for phase, part in enumerate(cells):
            heads = network.heads(phase, glance, known)
            for group, own in enumerate(logits):
                own[:, part] = network.logits(phase, group, heads)
        by_group = [self._find_intervals(group, own, ordered) for group, own in enumerate(logits)]
        intervals = [interval[:, part] for part, interval in itertools.product(cells, by_group)]
        data = encode_range(np.hstack([*intervals, self.alphabet.word_intervals(tokens, ordered, glance.before)]))
        return data, past.follow(ordered.astype(np.uint8), grid.shape)

    def _find_intervals(self, group: int, logits: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        """The intervals of a group's symbols for the range coder, (3, n), by the logits (size, n).

        Symbols that are not coded get the whole interval, which costs no bits.
        """
        cells = self.alphabet.find_coded_cells(group, symbols)
        intervals = np.array([[0], [1], [1]], np.int32).repeat(len(symbols), 1)
        frequencies = self.network.frequencies(logits[:, cells])
        intervals[:, cells] = _intervals(frequencies, self.alphabet.to_values(group, symbols[cells, group]))
        return intervals

    def decode(self, data: bytes, size: tuple[int, int], past: Past = FRESH) -> tuple[np.ndarray, Past]:
        """Bytes of a grid of `size` (h, w) -> the grid, uint16 or uint32, and the past of the next one.

        CodingError for bytes that cannot be of such a grid. Other damage, another coder or another past give wrong
        tokens, which only a checksum of the grid detects.
        """
        if not 0 < size[0] * size[1] <= MOST_CELLS:
            raise CodingError(f"a grid of {size[0]}x{size[1]} tokens, coded are at most {MOST_CELLS}")
        if len(data) > MOST_BYTES * len(self.alphabet.sizes) * size[0] * size[1] + 8:
            raise CodingError(f"{len(data)} bytes are more than any grid of {size[0]}x{size[1]} tokens takes")
        with one_thread(self.network.arithmetic):
            return self._decode(data, size, past)

    def decode_checked(
        self, data: bytes, size: tuple[int, int], checksum: int, past: Past = FRESH
    ) -> tuple[np.ndarray, Past]:
        """As `decode`: tokens (h, w) and the past; CodingError also unless their `grid_checksum` is `checksum`."""
        tokens, after = self.decode(data, size, past)
        if grid_checksum(tokens) != checksum:
            raise CodingError("other tokens than were coded come out")
        return tokens, after

    def _decode(self, data: bytes, size: tuple[int, int], past: Past) -> tuple[np.ndarray, Past]:
        network, glance = self.network, self.network.look_back(past.match(size), *size)
        phases, known, decoder = glance.phases, network.blank(glance.phases), RangeDecoder(data)
        ordered = self.alphabet.start_symbols(glance.before)
        for phase in range(len(phases.neighbours)):
            cells = slice(*phases.cuts[phase : phase + 2])
            heads, now, before = network.heads(phase, glance, known), ordered[cells], glance.before[cells]
            for group in range(len(self.alphabet.sizes)):
                at = self.alphabet.find_coded_cells(group, now)
                frequencies = network.frequencies(network.logits(phase, group, heads[at]))
                values = decoder.decode(np.ascontiguousarray(frequencies.T).cumsum(1, dtype=np.int32))
                self.alphabet.fill_in(group, values, at, now)
                network.say_later(group, now[:, group], before[:, group], heads)
            known[phases.inside[cells]] = network.say_around(now, before)
        tokens = self.alphabet.join(ordered)
        self.alphabet.decode_words(decoder, tokens, ordered, glance.before)
        if not decoder.exhausted:
            raise CodingError(f"{len(data)} bytes are more than this grid takes")
        after = past.follow(ordered.astype(np.uint8), size)
        return phases.restore(tokens).reshape(size).astype(self.dtype), after

    @property
    def dtype(self) -> np.dtype:
        """The type of tokens: uint16, or uint32 above 65,536 codes."""
        return np.dtype(np.uint16 if self.alphabet.codes <= 1 << 16 else np.uint32)

    def _check(self, grid: np.ndarray) -> None:
        codes = self.alphabet.codes
        least, most = (int(grid.min()), int(grid.max())) if grid.size else (0, 0)
        whole = grid.dtype.kind in "iu" and least >= 0 and most < codes
        if grid.ndim != 2 or not 0 < grid.size <= MOST_CELLS or not whole:
            raise ValueError(
                f"grid {list(grid.shape)} of {grid.dtype}, {least} to {most}, expected [h, w] of tokens below {codes}"
            )


def _intervals(frequencies: np.ndarray, symbols: np.ndarray) -> np.ndarray:
    """Intervals (3, n) of symbols (n,) by frequencies (size, n): the sum below each, its own, and the total."""
    places = symbols * len(symbols) + np.arange(len(symbols))
    own = frequencies.take(places)
    up_to = frequencies  # cumulative, in place: `cumsum` along this axis takes several times as long
    for below, row in itertools.pairwise(up_to):
        row += below
    return np.stack([up_to.take(places) - own, own, up_to[-1]])


def save_coder(coder: TokenCoder, folder: Path) -> None:
    """Write coder.safetensors beside a tokenizer's weights."""
    metadata = {"format": FORMAT, "levels": json.dumps(coder.levels), "tokenizer": coder.tokenizer}
    metadata |= {"fingerprint": coder.fingerprint}
    (folder / FILE).write_bytes(to_safetensors(coder.tensors, metadata))


def load_coder(path: Path) -> TokenCoder:
    """Read a coder.safetensors, given as a file or a tokenizer's folder. ValueError if it is altered or no coder."""
    path = path / FILE if path.is_dir() else path
    try:
        with safe_open(path, "numpy") as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if facts.get("format") != FORMAT:
            raise ValueError(f"its format is {facts.get('format')!r}, expected {FORMAT!r}")
        coder = TokenCoder(json.loads(facts["levels"]), facts["tokenizer"], tensors)
        if coder.fingerprint != facts["fingerprint"]:
            raise ValueError(f"its fingerprint is {coder.fingerprint}, it says {facts['fingerprint']}")
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is no token coder: {' '.join(str(error).split())}") from error
    return coder
