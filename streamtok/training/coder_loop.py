"""Trains a token coder on a tokenizer's tokens, in minutes on one core, and measures its bits on held-out clips."""

import lzma
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import torch

from streamtok.coding.coder import FRESH, TokenCoder
from streamtok.model import Tokenizer
from streamtok.training.coder_grids import FileGrids, count_words, join_files
from streamtok.training.coder_model import CoderModel
from streamtok.training.coder_tokens import JUDGED, REFINING_VIEWS, VIEWS, Epoch, tokenize_views
from streamtok.training.optimizer import Average

LEARNING_RATE, WARMUP = 4e-3, 100
AVERAGE = 0.997  # decay of the averaged weights
TOLD_STEPS = 200  # between reports of the mean


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
        _fit(model, join_files(model.alphabet, epochs), steps, seed, on_step)
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
    model: CoderModel, files: list[FileGrids], steps: int, seed: int, on_step: Callable[[int, float], None]
) -> None:
    rng = np.random.default_rng(seed)
    weights = np.array([file.tokens.size for file in files]) ** 0.7  # long files less than in proportion to length
    average = Average(model, AVERAGE)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, betas=(0.9, 0.99))
    for step in range(steps):
        rate = min(1, (step + 1) / WARMUP) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * rate + 1e-5
        file = files[rng.choice(len(files), p=weights / weights.sum())]
        batch = file.draw(rng, model.alphabet)
        loss = model(batch.now, batch.past, batch.height, batch.width).mean()
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
