"""Trains a small world model: it predicts the next token grid from those before it, and is measured in bits per token.

    python examples/world_model.py                     # tokenizes a synthetic drive first; two minutes on a laptop
    python examples/world_model.py recordings/         # on your own recordings or token files
    python examples/world_model.py --save model.pt     # examples/sample_world_model.py then shows what it predicts

Each grid is predicted from the grids before it, every token as its FSQ digits, one after another, so that 64,000 codes
need a few dozen outputs. The loss is cross-entropy in bits per token. The baseline is the entropy of the held-out
grids' own token frequencies. No model that ignores the past can do better, so what lies below it was learned from the
past. The other figure is the bits of the token coder, which sees the past and was trained on much more data. Training
ends once held-out bits rise.
"""

import argparse
import copy
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

from streamtok.coding.coder import FRESH
from streamtok.coding.library import coder_for
from streamtok.data import TokenDataset
from streamtok.tokens.files import EncodeOptions, encode_file

CHECKS = 12  # evaluations on held-out windows during training
PATIENCE = 3  # evaluations without a better model until training ends
CODED = 24  # windows that the token coder is measured on
FEW = 1_000_000  # tokens, some minutes of one camera


class GridNorm(nn.GroupNorm):
    """Normalizes each grid by itself, since statistics over time would leak the future into the past."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, N, h, w) -> same."""
        batch, channels, steps, height, width = x.shape
        flat = x.transpose(1, 2).reshape(batch * steps, channels, height, width)
        return super().forward(flat).reshape(batch, steps, channels, height, width).transpose(1, 2)


class CausalBlock(nn.Module):
    """A causal residual block: its receptive field is 3x3 in space, and this grid and the two before in time."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = GridNorm(8, channels)
        self.space = nn.Conv3d(channels, channels, (1, 3, 3), padding=(0, 1, 1))
        self.time = nn.Conv3d(channels, channels, (3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, N, h, w) -> same."""
        y = F.silu(self.space(F.silu(self.norm(x))))
        return x + self.time(F.pad(y, (0, 0, 0, 0, 2, 0)))


class WorldModel(nn.Module):
    """Digit transition counts, corrected by causal convolutions over the past grids; FSQ `levels` are a token's digits.

    tokens (B, N, h, w) int -> bits (B, N - 1, h, w): the cost of each token of grids 1 to N - 1, given those before.
    """

    def __init__(self, levels: tuple[int, ...], channels: int = 64, blocks: int = 3):
        super().__init__()
        self.levels = levels
        self.embed = nn.ModuleList(nn.Embedding(size, channels) for size in levels)
        self.blocks = nn.ModuleList(CausalBlock(channels) for _ in range(blocks))
        self.norm = GridNorm(8, channels)
        heads = [nn.Linear(channels, size) for size in levels]
        for head in heads:
            nn.init.zeros_(head.weight)
        self.heads = nn.ModuleList(nn.Sequential(nn.SiLU(), head) for head in heads)
        # Log odds of a digit given the same digit one grid earlier, and whether an earlier digit changed since then.
        self.counted = nn.ParameterList(torch.zeros(2, size, size) for size in levels)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (B, N, h, w) int -> float (B, N - 1, h, w), in bits."""
        digits, bits = self.digits(tokens), []
        known = self.look_back([digit[:, :-1] for digit in digits])
        for k, (changed, before, now) in enumerate(self.transitions(digits)):
            odds = self.heads[k](known) + self.counted[k][changed, before]
            bits.append(F.cross_entropy(odds.movedim(-1, 1), now, reduction="none") / math.log(2))
            known = known + self.embed[k](now)  # later digits are conditioned on this one
        return torch.stack(bits).sum(0)

    def look_back(self, digits: list[Tensor]) -> Tensor:
        """Digits (B, N, h, w) each -> what each grid and those before it say of the next, (B, N, h, w, C)."""
        x = sum(table(digit) for table, digit in zip(self.embed, digits, strict=True)).permute(0, 4, 1, 2, 3)
        for block in self.blocks:
            x = block(x)
        return self.norm(x).permute(0, 2, 3, 4, 1)

    def digits(self, tokens: Tensor) -> list[Tensor]:
        """Split tokens (B, N, h, w) into FSQ digits, least significant first: a tensor (B, N, h, w) for each level."""
        tokens, digits = tokens.long(), []
        for size in self.levels:
            digits.append(tokens % size)
            tokens = tokens // size
        return digits

    def transitions(self, digits: list[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (a lower digit changed, the digit before, the digit now) for each digit, all (B, N - 1, h, w)."""
        changed = torch.zeros_like(digits[0][:, 1:])
        for digit in digits:
            yield changed, digit[:, :-1], digit[:, 1:]
            changed = changed | (digit[:, :-1] != digit[:, 1:])

    @torch.no_grad()
    def count(self, data: Subset) -> None:
        """Initialize the transition tables by counting in the training windows; the network learns the rest."""
        counts = [torch.full_like(table, 0.5) for table in self.counted]
        for item in windows_of(data):
            seen = item["tokens"][item["mask"]][None]
            for table, (changed, before, now) in zip(counts, self.transitions(self.digits(seen)), strict=True):
                table.index_put_((changed.long(), before, now), torch.ones(()), accumulate=True)
        for table, numbers in zip(self.counted, counts, strict=True):
            table.copy_((numbers / numbers.sum(-1, keepdim=True)).log())


def windows_of(data: Subset) -> Iterator[dict[str, Tensor]]:
    """Yield each window once: `tokens` (N, h, w) int and `mask` (N,) bool, False for padding."""
    return (data[index] for index in range(len(data)))


def bits_per_token(model: WorldModel, batch: dict[str, Tensor]) -> Tensor:
    """The mean bits of unmasked tokens that have a past in their window, a scalar."""
    bits, valid = model(batch["tokens"]), batch["mask"][:, 1:]
    return bits[valid].mean() if valid.any() else bits.sum() * 0


def frequency_entropy(data: Subset) -> float:
    """Bits per token of the best code that ignores the past: the entropy of `data`'s own token frequencies."""
    counts: Counter[int] = Counter()
    for item in windows_of(data):
        values, numbers = item["tokens"][item["mask"]].unique(return_counts=True)
        counts.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    total = sum(counts.values())
    return -sum(n / total * math.log2(n / total) for n in counts.values())


def evaluate(model: WorldModel, data: Subset) -> float:
    """Bits per token over all windows, each token counted once."""
    total, tokens = 0.0, 0
    model.eval()
    with torch.inference_mode():
        for batch in DataLoader(data, batch_size=8):
            bits, valid = model(batch["tokens"]), batch["mask"][:, 1:]
            total, tokens = total + float(bits[valid].sum()), tokens + int(bits[valid].numel())
    return total / max(1, tokens)


@dataclass(frozen=True)
class Course:
    """The course of training: steps taken, the step of the best model, and its bits per token on held-out windows."""

    steps: int
    best_step: int
    bits: float


def train(model: WorldModel, data: Subset, seconds: float, held_out: Subset) -> Course:
    """Train for `seconds`, or until held-out bits stop falling; then restore the best model.

    The learning rate decays to 0. The counted model before the first step is the first one to beat.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    started, step, due, worse = time.monotonic(), 0, 0.0, 0
    best, kept = Course(0, 0, math.inf), {}
    while True:
        for batch in DataLoader(data, batch_size=8, shuffle=True):
            progress = min(1.0, (time.monotonic() - started) / seconds)
            if progress >= due:
                bits, due = evaluate(model, held_out), due + 1 / CHECKS
                print(f"step {step:5d}: {bits:.3f} bits per token held out", file=sys.stderr)
                worse = 0 if bits < best.bits else worse + 1
                if not worse:
                    best, kept = Course(step, step, bits), copy.deepcopy(model.state_dict())
            if progress >= 1 or worse == PATIENCE:
                model.load_state_dict(kept)
                return replace(best, steps=step)
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * (1 - progress) * min(1.0, (step + 1) / 50)
            model.train()
            optimizer.zero_grad()
            bits_per_token(model, batch).backward()
            optimizer.step()
            step += 1


def coder_bits(data: TokenDataset, held_out: Subset) -> float | None:
    """Bits per token of the tokenizer's token coder, on tokens that `evaluate` counts; None if no coder ships for it.

    It is measured on about `CODED` windows, spread over the held-out ones.
    """
    try:
        coder = coder_for(data.identity["tokenizer"] or "")
    except ValueError:
        return None
    size = tokens = 0
    for index in range(0, len(held_out), max(1, len(held_out) // CODED)):
        item, past = held_out[index], FRESH
        for index_in_window, grid in enumerate(item["tokens"][item["mask"]].numpy()):
            coded, past = coder.encode(grid, past)
            if index_in_window:  # the first has no past, and is not counted
                size, tokens = size + 8 * len(coded), tokens + grid.size
    return size / tokens if tokens else None


def tokenize_synthetic_drives(folder: Path, tokenizer: str, frames: int) -> Path:
    """Encode three synthetic drives, the last of which is held out; returns the folder of their token files."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(3):
        out = folder / f"drive{seed}" / "front.safetensors"
        if not out.exists():
            out.parent.mkdir(exist_ok=True)
            source = f"synthetic:128x224@30?seed={seed}&frames={frames}"
            encode_file(source, out, tokenizer, EncodeOptions(max_frames=frames, quiet=False))
    return folder


def open_windows(source: Path | list[str], window: int) -> tuple[TokenDataset, Subset, Subset]:
    """Open all windows, those to train on, and the held-out ones: the last third by drive and time.

    Raises ValueError if the tokens have no FSQ digits, or are too few.
    """
    data = TokenDataset(source, window=window)
    border = 2 * len(data) // 3
    if not data.levels:
        raise ValueError(f"{source}: its tokens have no FSQ digits; use a tokenizer with FSQ")
    if not border:
        raise ValueError(f"{source}: {len(data)} window of {window} grids, too few to hold a third out")
    return data, Subset(data, range(border)), Subset(data, range(border, len(data)))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("source", nargs="*", help="recordings, token files or folders (default: synthetic drives)")
    add("--tokenizer", default="nano", help="model for the synthetic drives (default: nano)")
    add("--frames", type=int, default=900, help="frames of each synthetic drive (default: 900)")
    add("--window", type=int, default=8, help="grids in a window (default: 8)")
    add("--max-seconds", type=float, default=90, help="how long to train (default: 90)")
    add("--out", type=Path, default=Path("out/world_model"), help="where the synthetic drives' tokens go")
    add("--save", type=Path, help="write the model to this file, for examples/sample_world_model.py")
    add("--json", action="store_true", help="print the result as one JSON object")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Train, evaluate, and compare with the baselines; returns 1 if the model does not beat the token frequencies."""
    args = parse(argv)
    torch.manual_seed(0)
    source = args.source or tokenize_synthetic_drives(args.out, args.tokenizer, args.frames)
    try:
        data, training, held_out = open_windows(source, args.window)
    except (OSError, ValueError) as error:
        print(f"world_model: {error}", file=sys.stderr)
        return 1
    model = WorldModel(data.levels)
    model.count(training)
    course = train(model, training, args.max_seconds, held_out)
    if args.save:
        torch.save({"levels": model.levels, "weights": model.state_dict()}, args.save)
    coded, baseline = coder_bits(data, held_out), frequency_entropy(held_out)
    learned_from = sum(int(item["tokens"][item["mask"]].numel()) for item in windows_of(training))
    result = {
        "bits_per_token": round(course.bits, 3),
        "frequency_entropy": round(baseline, 3),
        "token_coder": coded and round(coded, 3),
        "log2_codes": round(math.log2(math.prod(data.levels)), 3),
        "steps": course.steps,
        "best_step": course.best_step,
        "windows": len(data),
        "training_tokens": learned_from,
    }
    if args.json:
        print(json.dumps(result))
        return 0 if course.bits < baseline else 1
    print(f"data: {len(training)} windows of {args.window} grids to train on, {learned_from:,} tokens")
    print(f"held out: {course.bits:.3f} bits per token, the best model, of step {course.best_step} of {course.steps}")
    print(f"baseline: {baseline:.3f} bits per token, the entropy of the token frequencies")
    print(f"token coder: {f'{coded:.3f} bits per token' if coded else 'none ships for this tokenizer'}")
    if learned_from < FEW:
        print(f"that is little data: below {FEW:,} tokens little more than counting can be learned")
    return 0 if course.bits < baseline else 1


if __name__ == "__main__":
    sys.exit(main())
