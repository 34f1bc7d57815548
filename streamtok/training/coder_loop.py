"""Trains a token coder on a tokenizer's tokens, in minutes on one core, and measures its bits on held-out clips."""

import lzma
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from streamtok.coding.alphabet import OLDEST, Alphabet, RefiningAlphabet
from streamtok.coding.coder import FRESH, TokenCoder
from streamtok.model import Tokenizer
from streamtok.training.coder_model import CoderModel
from streamtok.training.coder_tokens import JUDGED, REFINING_VIEWS, VIEWS, Epoch, tokenize_views
from streamtok.training.optimizer import Average

GRIDS = 3  # per step, all of one file
LEARNING_RATE, WARMUP = 4e-3, 100
AVERAGE = 0.997  # decay of the averaged weights
TOLD_STEPS = 200  # between reports of the mean
WORDS = 60_000  # approximate sum of the codewords' frequencies
ALONE = 0.1  # share of grids coded without their past, as keyframes and `independent` grids are


@dataclass(frozen=True)
class _FileGrids:
    """All grids of one file and size, as tokens (n, h * w) and as symbols (n, h * w, groups) uint8.

    `place` (n,) is each grid's index in its epoch.
    """

    tokens: np.ndarray
    symbols: np.ndarray
    place: np.ndarray
    size: tuple[int, int]

    def draw(self, rng: np.random.Generator, alphabet: Alphabet) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Draw GRIDS grids, with the three before each, newest first: symbols int64 (GRIDS, h * w, groups)."""
        chosen = rng.integers(len(self.place), size=GRIDS)
        place = np.where(rng.random(GRIDS) < ALONE, 0, self.place[chosen])

        def back(steps: int) -> np.ndarray:
            there = (place >= steps)[:, None, None]
            return np.where(there, self.symbols[chosen - steps], alphabet.symbols.none).astype(np.int64)

        one, two, three = (back(steps) for steps in (1, 2, 3))
        now = alphabet.split(self.tokens[chosen], one)
        return torch.from_numpy(now), (torch.from_numpy(one), torch.from_numpy(two), torch.from_numpy(three))


def _join_files(alphabet: Alphabet, epochs: Sequence[Epoch]) -> list[_FileGrids]:
    kinds: dict[tuple[str, tuple[int, ...]], list[np.ndarray]] = {}
    for epoch in epochs:
        kinds.setdefault((epoch.path, epoch.grids.shape[1:]), []).append(epoch.grids)
    files = []
    for (_, size), runs in kinds.items():
        symbols = np.concatenate([_split_epoch(alphabet, run) for run in runs])
        tokens = np.concatenate(runs).reshape(len(symbols), -1)
        place = np.concatenate([np.arange(len(run)) for run in runs])
        files.append(_FileGrids(tokens, symbols, place, (size[0], size[1])))
    return files


def _split_epoch(alphabet: Alphabet, grids: np.ndarray) -> np.ndarray:
    """Grids (T, h, w) of an epoch -> their symbols uint8 (T, h * w, groups)."""
    symbols = [np.broadcast_to(alphabet.symbols.none, (grids[0].size, len(alphabet.symbols.none)))]
    for grid in grids:
        symbols.append(alphabet.split(grid.ravel(), symbols[-1]))
    return np.stack(symbols[1:]).astype(np.uint8)


def count_words(levels: tuple[int, ...], count: int, epochs: Sequence[Epoch]) -> np.ndarray:
    """The `words` of a `RefiningAlphabet`: how often each of `count` codewords was used, uint16 (ages, count)."""
    alphabet, content = RefiningAlphabet(levels, np.ones((OLDEST + 2, count), np.uint16)), math.prod(levels)
    seen = np.full((OLDEST + 2, count), 0.5)
    for epoch in epochs:
        ages = _split_epoch(alphabet, epoch.grids)[..., 0]
        before = np.concatenate([alphabet.symbols.none[:1].repeat(len(ages[0]))[None], ages[:-1]])
        words = epoch.grids.reshape(ages.shape).astype(np.int64) - content
        np.add.at(seen, (before[ages > 0], words[ages > 0]), 1)
    seen[-1] += seen[:-1].sum(0)  # without a past the age is unknown
    return np.clip(np.round(seen / seen.sum(1, keepdims=True) * WORDS), 1, WORDS).astype(np.uint16)


def train_coder(
    levels: tuple[int, ...],
    tokenizer: str,
    epochs: Sequence[Epoch],
    steps: int,
    *,
    refinement: int = 0,
    seed: int = 0,
    on_step: Callable[[int, float], None] = lambda step, bits: None,
) -> TokenCoder:
    """Train the coder of a tokenizer, given by its fingerprint: Adam, averaged weights, quantization-aware throughout.

    `refinement` is how many codewords the tokenizer has. It runs in one thread, because its products are small.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch.manual_seed(seed)
        model = CoderModel(levels, count_words(levels, refinement, epochs) if refinement else None)
        _fit(model, _join_files(model.alphabet, epochs), steps, seed, on_step)
        return model.export(tokenizer)
    finally:
        torch.set_num_threads(threads)


def train_on_files(
    tok: Tokenizer, paths: Sequence[str], frames: int, steps: int, seed: int, say: Callable[[str], None]
) -> TokenCoder:
    """Train the coder of an FSQ tokenizer on up to `frames` of each file; `say` gets lines of progress."""
    views = REFINING_VIEWS if tok.config.refinement else VIEWS
    epochs = tokenize_views(tok, paths, views, frames)
    say(f"{sum(epoch.grids.size for epoch in epochs):,} tokens of {len(paths)} files")
    recent: list[float] = []

    def on_step(step: int, bits: float) -> None:
        recent.append(bits)
        if len(recent) == TOLD_STEPS:
            say(f"step {step + 1}: {fmean(recent):.3f} bits a token")
            recent.clear()

    levels, refinement = tok.config.levels, tok.config.refinement
    return train_coder(levels, tok.fingerprint, epochs, steps, refinement=refinement, seed=seed, on_step=on_step)


def _fit(
    model: CoderModel, files: list[_FileGrids], steps: int, seed: int, on_step: Callable[[int, float], None]
) -> None:
    rng = np.random.default_rng(seed)
    weights = np.array([file.tokens.size for file in files]) ** 0.7  # long files less than in proportion to length
    average = Average(model, AVERAGE)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, betas=(0.9, 0.99))
    for step in range(steps):
        rate = min(1, (step + 1) / WARMUP) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * rate + 1e-5
        file = files[rng.choice(len(files), p=weights / weights.sum())]
        loss = model(*file.draw(rng, model.alphabet), *file.size).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        average.update()
        on_step(step, loss.item())
    average.swap()


def count_bits(coder: TokenCoder, grids: np.ndarray, independent: bool = False) -> list[float]:
    """Bits per token of each grid (T, h, w) of an epoch, coded with its past unless `independent`, and decoded again.

    ValueError if decoding gives other tokens.
    """
    bits, past = [], FRESH
    for grid in grids:
        data, after = coder.encode(grid, past)
        again, _ = coder.decode(data, grid.shape, past)
        if not np.array_equal(grid, again):
            raise ValueError("the coder does not give back what it was given")
        bits.append(8 * len(data) / grid.size)
        past = FRESH if independent else after
    return bits


def judge_views(coder: TokenCoder, tok: Tokenizer, paths: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """`judge_clips` of held-out files, by the name of each view of JUDGED: the clips, and their stills held."""
    return {name: judge_clips(coder, tokenize_views(tok, paths, [view], view.epoch)) for name, view in JUDGED.items()}


def judge_clips(coder: TokenCoder, epochs: Sequence[Epoch]) -> dict[str, dict[str, float]]:
    """Bits per token of each held-out clip: over all grids, of the keyframe, of the others, of all coded independently,
    and of all by lzma."""
    rows: dict[str, dict[str, float]] = {}
    for epoch in epochs:
        bits, alone = count_bits(coder, epoch.grids), count_bits(coder, epoch.grids, independent=True)
        rows[Path(epoch.path).stem] = {
            "bits": fmean(bits),
            "keyframe": bits[0],
            "others": fmean(bits[1:]) if bits[1:] else bits[0],
            "independent": fmean(alone),
            "lzma": 8 * len(lzma.compress(epoch.grids.tobytes())) / epoch.grids.size,
        }
    return rows
