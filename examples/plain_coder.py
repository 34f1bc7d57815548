"""Decodes coded token grids with NumPy alone, in plain 64-bit integers, as a start for readers in other languages.

    python examples/plain_coder.py streamtok/weights/nano/coder.safetensors tests/golden/coded_nano.json

Nothing of streamtok is imported. docs/wire-protocol.md, "Coded payloads", describes the same algorithm.
"""

import argparse
import json
import struct
import zlib
from itertools import product
from pathlib import Path

import numpy as np

STRAIGHT = [(-1, 0), (0, -1), (0, 1), (1, 0), (-1, -2), (-1, 2), (1, -2), (1, 2), (-2, -1), (-2, 1), (2, -1), (2, 1)]
DIAGONAL = [(-1, -1), (-1, 1), (1, -1), (1, 1), (-1, -3), (-1, 3), (1, -3), (1, 3), (-3, -1), (-3, 1), (3, -1), (3, 1)]
NEIGHBOURS = [[], [(2 * y, 2 * x) for y, x in STRAIGHT], DIAGONAL, STRAIGHT]
KINDS = {"I8": "<i1", "U8": "<u1", "I16": "<i2", "U16": "<u2", "I32": "<i4"}


def read_coder(path):
    """Read a coder.safetensors; returns its fingerprint, levels, and tensors (int64, by name)."""
    data = Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    facts = header.pop("__metadata__")
    tensors = {}
    for name, entry in header.items():
        first, last = (8 + length + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(data[first:last], KINDS[entry["dtype"]]).reshape(entry["shape"]).astype(np.int64)
    return facts["fingerprint"], json.loads(facts["levels"]), tensors


def group_digits(levels):
    """Group consecutive digits so that each group has at most 64 joint values; returns lists of digit indices."""
    groups = [[0]]
    for digit in range(1, len(levels)):
        if np.prod([levels[d] for d in groups[-1]]) * levels[digit] <= 64:
            groups[-1].append(digit)
        else:
            groups.append([digit])
    return groups


def phase_of(y, x):
    """The phase in which a cell is decoded, 0 to 3."""
    if y % 2 == 0 and x % 2 == 0:
        return 0 if y % 4 == x % 4 else 1
    return 2 if y % 2 == 1 and x % 2 == 1 else 3


class RangeDecoder:
    """A range decoder: reads symbols by their frequencies; missing bytes at the end read as zeros."""

    def __init__(self, data):
        self.data, self.place, self.range = data, 8, 1 << 64
        self.code = int.from_bytes(data[:8].ljust(8, b"\0"), "big")

    def next(self, frequencies):
        part = self.range // sum(frequencies)
        symbol, below = 0, 0
        while symbol + 1 < len(frequencies) and self.code // part >= below + frequencies[symbol]:
            below += frequencies[symbol]
            symbol += 1
        self.code -= part * below
        self.range = part * frequencies[symbol]
        if self.range < 1 << 32:
            word = self.data[self.place : self.place + 4].ljust(4, b"\0")
            self.code, self.range, self.place = (
                (self.code << 32) | int.from_bytes(word, "big"),
                self.range << 32,
                self.place + 4,
            )
        return symbol


class PlainCoder:
    """Decodes the grids of one stream in order; call `reset` before a keyframe, and before every independent grid."""

    def __init__(self, path):
        self.fingerprint, self.levels, self.tensors = read_coder(path)
        self.words, self.content = self.tensors.get("words"), np.prod(self.levels)
        self.groups = group_digits(self.levels)
        if self.words is not None:  # tokens may refine: the refinement's age is an extra first digit, its own group
            self.levels = [9, *self.levels]
            self.groups = [[0], *([digit + 1 for digit in group] for group in self.groups)]
        self.first_row = np.cumsum([0, *((level + 1) ** 2 for level in self.levels)])
        self.head = self.tensors["symbols.0.0.weight"].shape[1]
        self.reset()

    def reset(self):
        self.past = []

    def linear(self, name, x):
        weight, bias, shift = (self.tensors[f"{name}.{part}"] for part in ("weight", "bias", "shift"))
        return (x @ weight.T + bias) >> shift  # an arithmetic shift: negative numbers round down

    def row(self, digit, a, b):
        return self.first_row[digit] + a * (self.levels[digit] + 1) + b

    def look_back(self, height, width):
        """Compute features and head sums (h, w, ...) from the previous grids, and the bias of all cells."""
        none = np.broadcast_to(np.array(self.levels), (height, width, len(self.levels)))
        one, two, three = (*self.past, none, none, none)[:3]
        heads, parts = [], []
        for group in self.groups:
            found = [self.tensors["past"][self.row(d, one[..., d], two[..., d])] for d in group]
            parts += [entry[..., : -self.head] for entry in found]
            heads.append(sum(entry[..., -self.head :] for entry in found))
        older = sum(self.tensors["older"][self.row(d, two[..., d], three[..., d])] for d in range(len(self.levels)))
        narrow = np.concatenate([np.sum(parts, 0), older], -1).clip(0, 127)
        wide = narrow
        for layer in range(2):
            padded = np.pad(wide, ((1, 1), (1, 1), (0, 0)))
            taps = [padded[dy : dy + height, dx : dx + width] for dy, dx in product(range(3), range(3))]
            wide = self.linear(f"conv.{layer}", np.concatenate(taps, -1)).clip(0, 127)
        bias = self.linear("mean", wide.sum((0, 1)) // (height * width))
        return one, np.concatenate([wide, narrow], -1), np.stack(heads, -2), bias

    def begin(self, before):
        """The initial digits (h, w, D) of a grid, before anything of it is decoded."""
        if self.words is None:
            return np.zeros_like(before)
        digits = before.copy()
        digits[..., 0] = np.where(before[..., 0] == 9, 1, np.minimum(before[..., 0] + 1, 8))
        return digits

    def set_symbol(self, group, symbol, digits):
        """Write a decoded symbol into the digits (D,) of a cell."""
        if self.words is not None and group == 0:
            digits[0] *= symbol
            return
        for d in self.groups[group]:
            digits[d] = symbol % self.levels[d]
            symbol //= self.levels[d]

    def join(self, decoder, digits, before, cells):
        """Digits (h, w, D) -> tokens (h, w); reads the codewords that follow in the payload, in order of `cells`."""
        if self.words is None:
            return digits @ np.cumprod([1, *self.levels[:-1]])
        tokens = digits[..., 1:] @ np.cumprod([1, *self.levels[1:-1]])
        for y, x in cells:
            if digits[y, x, 0]:
                tokens[y, x] = self.content + decoder.next(self.words[before[y, x, 0]].tolist())
        return tokens

    def decode(self, data, height, width):
        """Decode the payload of a grid to tokens (h, w) int64."""
        before, features, heads, bias = self.look_back(height, width)
        decoder = RangeDecoder(data)
        digits = self.begin(before)
        said = np.zeros(
            (height + 8, width + 8, self.tensors["known"].shape[1] - len(self.groups) * self.head), np.int64
        )
        ordered = []
        for phase in range(4):
            cells = [(y, x) for y in range(height) for x in range(width) if phase_of(y, x) == phase]
            ordered += cells
            for y, x in cells:
                near = [said[y + 4 + dy, x + 4 + dx] for dy, dx in NEIGHBOURS[phase]]
                hidden = self.linear(f"mix.{phase}", np.concatenate([features[y, x], *near])) + bias
                hidden = self.linear(f"hidden.{phase}", hidden.clip(0, 127)).clip(0, 127)
                heads[y, x] += self.linear(f"heads.{phase}", hidden).reshape(len(self.groups), self.head)
            for group, members in enumerate(self.groups):
                for y, x in cells:
                    if self.words is None or group == 0 or digits[y, x, 0] == 0:  # a refined cell keeps its digits
                        logits = self.linear(f"symbols.{phase}.{group}", heads[y, x, group].clip(0, 127))
                        below = np.minimum(logits.max() - logits, 511)
                        symbol = decoder.next(self.tensors["exponential"][below].tolist())
                        self.set_symbol(group, symbol, digits[y, x])
                    for d in members:
                        known = self.tensors["known"][self.row(d, digits[y, x, d], before[y, x, d])]
                        said[y + 4, x + 4] += known[: said.shape[2]]
                        heads[y, x] += known[said.shape[2] :].reshape(len(self.groups), self.head)
            for y, x in cells:
                said[y + 4, x + 4] = said[y + 4, x + 4].clip(0, 127)
        self.past = [digits, *self.past][:3]
        return self.join(decoder, digits, before, ordered)


def main(coder_path, vectors_path):
    coder, vectors = PlainCoder(coder_path), json.loads(Path(vectors_path).read_text())
    if coder.fingerprint != vectors["coder"]:
        raise SystemExit(f"the vectors are of coder {vectors['coder']}, this is {coder.fingerprint}")
    for message in vectors["messages"]:
        if message["keyframe"] or message["independent"]:
            coder.reset()
        grid = coder.decode(bytes.fromhex(message["payload"]), *message["grid"])
        right = zlib.crc32(grid.astype("<u2").tobytes()) == message["checksum"]
        print(f"seq {message['seq']}: {len(message['payload']) // 2} bytes, {'right' if right else 'WRONG'}")
        if not right:
            raise SystemExit(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("coder", help="a coder.safetensors")
    parser.add_argument("vectors", help="messages with their checksums, as tests/golden/coded_*.json")
    arguments = parser.parse_args()
    main(arguments.coder, arguments.vectors)
