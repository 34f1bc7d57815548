"""Figures that several reports give, each with one definition; they need numpy alone."""

import math

import numpy as np

PSNR_CEILING = 100.0  # dB reported for identical pictures, so that means stay finite


def psnr_from_mse(mse: float) -> float:
    """Decibels of a mean squared error on the 0..1 scale; identical pictures give 100."""
    return PSNR_CEILING if mse <= 10 ** (-PSNR_CEILING / 10) else -10 * math.log10(mse)


def entropy_bits(counts: np.ndarray) -> float:
    """Entropy of a histogram in bits; 0 for an empty one."""
    seen = counts[counts > 0]
    share = seen / seen.sum()
    return float(max(0.0, -(share * np.log2(share)).sum()))
