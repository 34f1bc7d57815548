"""How well a codebook is used, and what tokens cost in bits."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from streamtok.measures import entropy_bits


@dataclass
class CodeCounts:
    """Pools the tokens of many clips: how many codes occur, and the entropy of their joint histogram.

    The pooled entropy is the plain estimate from counts, in bits per token. It cannot exceed log2 of the number of
    tokens seen, so figures compare only between sets of about the same size.
    """

    codebook_size: int
    levels: tuple[int, ...] = ()  # of an FSQ codebook, to look at each level's use
    counts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros(self.codebook_size, np.int64)

    def add(self, indices: torch.Tensor) -> None:
        """Count tokens of any shape (..., h, w), of any integer dtype; ValueError for one outside the codebook."""
        flat = indices.detach().to("cpu", torch.int64).flatten().numpy()
        outside = flat[(flat < 0) | (flat >= self.codebook_size)]
        if outside.size:
            raise ValueError(f"token {outside[0]} is outside the codebook 0..{self.codebook_size - 1}")
        self.counts += np.bincount(flat, minlength=self.codebook_size)

    def summary(self) -> dict:
        """`tokens`, `codes_used`, `entropy_bits`, `bits_per_token` (of the format) and the share of each FSQ level."""
        out: dict[str, object] = {
            "tokens": int(self.counts.sum()),
            "codebook_size": self.codebook_size,
            "codes_used": int((self.counts > 0).sum()),
            "entropy_bits": entropy_bits(self.counts),
            "bits_per_token": math.log2(self.codebook_size),
        }
        if self.levels and math.prod(self.levels) == self.codebook_size:
            grid = self.counts.reshape(self.levels[::-1])  # the first level varies fastest
            axes = range(grid.ndim)
            sums = [grid.sum(axis=tuple(other for other in axes if other != axis)) for axis in reversed(axes)]
            out["levels_used"] = [(counts / max(1, self.counts.sum())).round(4).tolist() for counts in sums]
        return out
