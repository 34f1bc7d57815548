"""The network of `streamtok.coding` in PyTorch, for training: the same integers, with straight-through gradients."""

import math
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamtok.coding.alphabet import make_alphabet
from streamtok.coding.coder import TokenCoder
from streamtok.coding.layout import NEIGHBOURS, make_phases
from streamtok.coding.network import ACTIVATION_MAX, EXPONENTS

UNIT = 16.0  # integer activation that stands for 1.0
NAT = 32.0  # integer logit that stands for 1.0
SEEN, OLDER, KNOWN, FEATURES, HIDDEN, HEAD = 24, 8, 16, 40, 64, 32  # layer widths


def floor_through(x: Tensor) -> Tensor:
    """floor(x) of x (..., C), with the gradient of x."""
    return x + (x.floor() - x).detach()


def activate(x: Tensor) -> Tensor:
    """x (..., C), clamped to 0..127."""
    return x.clamp(0, ACTIVATION_MAX)


class Linear(nn.Module):
    """`coding.network.IntLinear` with float weights, rounded in the forward pass; output `unit` stands for 1.0."""

    def __init__(self, inputs: int, outputs: int, unit: float = UNIT, gain: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * gain * inputs**-0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.unit = unit

    def rounded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Integer weights (D, C), biases (D,) plus the half for rounding, and shifts (D,), with gradients."""
        weight = self.weight * (self.unit / UNIT)
        largest = weight.detach().abs().amax(1).clamp(min=1e-6)
        shift = torch.floor(torch.log2(ACTIVATION_MAX / largest)).clamp(1, 16)
        scale = 2.0**shift
        whole = floor_through(weight * scale[:, None] + 0.5).clamp(-ACTIVATION_MAX, ACTIVATION_MAX)
        bias = floor_through(self.bias * self.unit * scale + 0.5) + scale / 2
        return whole, bias, shift

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) -> (..., D), both integers."""
        weight, bias, shift = self.rounded()
        return floor_through(F.linear(x, weight, bias) * 0.5**shift)

    def export(self, name: str) -> dict[str, np.ndarray]:
        """The tensors of `coding.network.IntLinear` by name: int8 (out, in), int32 (out,), uint8 (out,)."""
        parts = zip(("weight", "bias", "shift"), self.rounded(), (np.int8, np.int32, np.uint8), strict=True)
        return {f"{name}.{part}": value.detach().numpy().astype(dtype) for part, value, dtype in parts}


class Table(nn.Module):
    """An integer table of `rows` rows, which cells look up and sum."""

    def __init__(self, rows: int, width: int, spread: float = 0.3):
        super().__init__()
        self.table = nn.Parameter(torch.randn(rows, width) * spread)

    def rounded(self) -> Tensor:
        """The table rounded to integers, (rows, width), with gradients."""
        return floor_through(self.table * UNIT + 0.5).clamp(-2047, 2047)


class CoderModel(nn.Module):
    """Computes the bits of a grid's symbols, given the grids before; `export` gives the equivalent coder.

    `words`: as in `RefiningAlphabet`, for a refining tokenizer.
    """

    def __init__(self, levels: tuple[int, ...], words: np.ndarray | None = None):
        super().__init__()
        self.words = words
        self.levels, self.alphabet = levels, make_alphabet(levels, words)
        self.digits, sizes = self.alphabet.digits, self.alphabet.sizes
        rows = int(self.digits.rows[-1])
        self.past, self.older = Table(rows, SEEN + HEAD), Table(rows, OLDER)
        self.known = Table(rows, KNOWN + len(sizes) * HEAD, 0.15)
        self.later = self._mark_later(rows)
        self.conv = nn.ModuleList(
            [Linear(9 * (SEEN + OLDER), FEATURES, gain=1.4), Linear(9 * FEATURES, FEATURES, gain=1.4)]
        )
        self.mean = Linear(FEATURES, HIDDEN)
        inputs = [FEATURES + SEEN + OLDER + KNOWN * len(around) for around in NEIGHBOURS]
        self.mix = nn.ModuleList(Linear(width, HIDDEN, gain=1.2) for width in inputs)
        self.hidden = nn.ModuleList(Linear(HIDDEN, HIDDEN, gain=1.2) for _ in inputs)
        self.heads = nn.ModuleList(Linear(HIDDEN, len(sizes) * HEAD) for _ in inputs)
        self.symbols = nn.ModuleList(nn.ModuleList(Linear(HEAD, size, NAT, gain=0.7) for size in sizes) for _ in inputs)

    def _mark_later(self, rows: int) -> Tensor:
        """A mask (rows, KNOWN + groups * HEAD): a digit may only affect neighbouring cells and later groups."""
        marks = torch.ones(rows, KNOWN + len(self.digits.sizes) * HEAD)
        for group, taken in enumerate(self.digits.groups):
            own = slice(int(self.digits.rows[taken.start]), int(self.digits.rows[taken.stop]))
            marks[own, KNOWN : KNOWN + (group + 1) * HEAD] = 0
        return marks

    def forward(self, now: Tensor, past: tuple[Tensor, Tensor, Tensor], height: int, width: int) -> Tensor:
        """Symbols (B, h * w, groups) of grids, and of the three before each, newest first -> bits (B, h * w)."""
        batch, phases, symbols = len(now), make_phases(height, width), now
        now, *back = (torch.from_numpy(self.digits.spread(each.numpy())) for each in (now, *past))
        order, inside = torch.from_numpy(phases.order), torch.from_numpy(phases.inside)
        narrow, heads = self._look_up(back)
        wide = self._convolve(self._convolve(narrow, 0, height, width), 1, height, width)
        bias = self.mean(floor_through(wide.mean(1)))
        features = torch.cat([wide, narrow], 2)[:, order]
        said = self._sum(self.known.rounded() * self.later, self._pairs(now, back[0]))
        known = torch.zeros(batch, phases.padded, KNOWN)
        known[:, inside] = activate(said[:, order, :KNOWN])
        heads = (heads + said[:, :, KNOWN:])[:, order]
        bits = []
        for phase, around in enumerate(phases.neighbours):
            cells = slice(*phases.cuts[phase : phase + 2])
            near = known[:, torch.from_numpy(around)].flatten(2)
            x = self.mix[phase](torch.cat([features[:, cells], near], 2)) + bias[:, None]
            x = self.heads[phase](activate(self.hidden[phase](activate(x)))) + heads[:, cells]
            bits.append(self._bits(phase, activate(x).flatten(0, 1), symbols[:, order[cells]].flatten(0, 1)))
        return torch.cat([each.view(batch, -1) for each in bits], 1)

    def _bits(self, phase: int, heads: Tensor, symbols: Tensor) -> Tensor:
        """Heads (n, groups * HEAD) and symbols (n, groups) of a phase's cells -> bits (n,)."""
        total = torch.zeros(len(symbols))
        for group, layer in enumerate(cast(nn.ModuleList, self.symbols[phase])):
            cells = self.alphabet.find_coded_cells(group, symbols.numpy())
            logits = layer(heads[cells, group * HEAD : (group + 1) * HEAD]) / NAT
            values = torch.from_numpy(self.alphabet.to_values(group, symbols[cells, group].numpy()))
            total[cells] = total[cells] + F.cross_entropy(logits, values, reduction="none") / math.log(2)
        return total

    def _pairs(self, a: Tensor, b: Tensor) -> Tensor:
        """Digits (B, n, D) of two grids -> rows of a table, int64 (B, n, D)."""
        return torch.from_numpy(self.digits.pairs(a.numpy(), b.numpy()))

    def _sum(self, table: Tensor, rows: Tensor) -> Tensor:
        """table (rows, W), rows (B, n, D) -> their sums (B, n, W)."""
        return F.embedding_bag(rows.flatten(0, 1), table, mode="sum").unflatten(0, rows.shape[:2])

    def _look_up(self, past: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Grids before -> activations (B, n, SEEN + OLDER), and what they add to the heads (B, n, groups * HEAD)."""
        rows, table = self._pairs(past[0], past[1]), self.past.rounded()
        seen = self._sum(table[:, :SEEN].contiguous(), rows)
        own = table[:, SEEN:].contiguous()
        heads = [self._sum(own, rows[:, :, taken.start : taken.stop].contiguous()) for taken in self.digits.groups]
        older = self._sum(self.older.rounded(), self._pairs(past[1], past[2]))
        return activate(torch.cat([seen, older], 2)), torch.cat(heads, 2)

    def _convolve(self, x: Tensor, layer: int, height: int, width: int) -> Tensor:
        """x (B, h * w, C) -> (B, h * w, FEATURES)."""
        padded = F.pad(x.unflatten(1, (height, width)), (0, 0, 1, 1, 1, 1))
        taps = [padded[:, dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)]
        return activate(self.conv[layer](torch.cat(taps, 3).flatten(1, 2)))

    def export(self, tokenizer: str) -> TokenCoder:
        """The coder that computes the same, for the tokenizer with that fingerprint."""
        tensors = {
            "past": self.past.rounded(),
            "older": self.older.rounded(),
            "known": self.known.rounded() * self.later,
        }
        exported = {} if self.words is None else {"words": self.words}
        exported |= {name: value.detach().numpy().astype(np.int16) for name, value in tensors.items()}
        for name, layer in self.named_modules():
            if isinstance(layer, Linear):
                exported |= layer.export(name)
        powers = np.exp(-np.arange(EXPONENTS) / NAT) * (1 << 16)
        exported["exponential"] = np.maximum(1, np.floor(powers + 0.5)).astype(np.int32)
        return TokenCoder(self.levels, tokenizer, exported)
