"""Fuzzes the token decoder: mutations of real coded grids must each give an error or the right tokens.

    python benchmarks/hostile_payloads.py CLIP [--count 1000000] [--lines 64] [--seed 0]

The tokens are `nano`'s of the clip's first 33 frames. Bits are flipped; bytes are changed, cut off, inserted and
appended; payloads are spliced, decoded with another past or size, or replaced by noise. The status is 1 for wrong
tokens or another kind of error. Memory is the process's peak.
"""

import argparse
import resource
import sys
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch

from streamtok.coding.coder import FRESH, CodingError, Past, TokenCoder, grid_checksum
from streamtok.coding.library import coder_for
from streamtok.engine.loading import load
from streamtok.evaluation.dataset import ClipSet, find_clips
from streamtok.evaluation.layouts import pictures_to_video


@dataclass(frozen=True)
class Coded:
    """A grid, its payload, and the past that it was coded from."""

    grid: np.ndarray
    data: bytes
    past: Past


def code_clip(path: str, lines: int) -> tuple[TokenCoder, list[Coded]]:
    """Code the grids of a clip, each by itself and within one epoch; returns the coder and the grids."""
    tok = load("nano", engine="default", device="cpu", threads=1)
    coder, coded, past = coder_for(tok.fingerprint), [], FRESH
    clip = next(iter(ClipSet(find_clips([path]), lines, 33)))
    indices = tok.encode(pictures_to_video(clip.frames)).indices
    assert indices is not None  # of a discrete tokenizer
    for grid in indices[0].numpy().astype(coder.dtype):
        coded.append(Coded(grid, coder.encode(grid)[0], FRESH))
        data, after = coder.encode(grid, past)
        coded.append(Coded(grid, data, past))
        past = after
    return coder, coded


def mutate(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Damage a payload in one of seven ways, chosen at random."""
    kind, place = int(rng.integers(7)), int(rng.integers(len(data)))
    noise = rng.bytes(int(rng.integers(1, 9)))
    if kind == 0:
        return data[:place] + bytes([data[place] ^ 1 << int(rng.integers(8))]) + data[place + 1 :]
    if kind == 1:
        return data[:place] + noise + data[place + len(noise) :]
    if kind == 2:
        return data[:place]
    if kind == 3:
        return data[:place] + noise + data[place:]
    if kind == 4:
        return data + noise
    if kind == 5:
        return data[:place] + other[place:]
    return rng.bytes(int(rng.integers(2 * len(data))))


def attack(coder: TokenCoder, coded: list[Coded], rng: np.random.Generator) -> str:
    """Decode one hostile payload; returns "errors", "right" or "WRONG"."""
    one, other = (coded[int(at)] for at in rng.integers(len(coded), size=2))
    data, past, size = mutate(one.data, other.data, rng), one.past, one.grid.shape
    lie = rng.random()
    if lie < 0.1:
        data, past = one.data, other.past
    elif lie < 0.2:
        data, size = one.data, (int(rng.integers(0, 20)), int(rng.integers(0, 20)))
    try:
        tokens, _ = coder.decode_checked(data, size, grid_checksum(one.grid), past)
    except CodingError:
        return "errors"
    return "right" if np.array_equal(tokens.ravel(), one.grid.ravel()) else "WRONG"


def peak_mb() -> float:
    """The peak resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", metavar="CLIP")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--lines", type=int, default=64, help="short side of the pictures")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    coder, coded = code_clip(arguments.clip, arguments.lines)
    rng, ends, begun = np.random.default_rng(arguments.seed), Counter[str](), 0.0
    for number in range(arguments.count):
        if number == arguments.count // 10:
            begun = peak_mb()
        if number % 10_000 == 0:
            print(f"{number}: {dict(ends)}, at most {peak_mb():.1f} MB", file=sys.stderr, flush=True)
        ends[attack(coder, coded, rng)] += 1
    height, width = coded[0].grid.shape
    print(f"{arguments.count} payloads of grids of {height}x{width}: {dict(ends)}")
    print(f"at most {begun:.1f} MB up to a tenth, {peak_mb():.1f} MB to the end")
    return int(ends["WRONG"] > 0)


if __name__ == "__main__":
    sys.exit(main())
