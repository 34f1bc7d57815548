"""Figures that the Cosmos authors published, for orientation beside a report: other clips, other sizes, other code."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One published row: PSNR in dB, SSIM and rFVD on TokenBench."""

    name: str
    compression: str  # time x height x width
    bottleneck: str
    psnr: float
    ssim: float
    rfvd: float


SOURCE = "the TokenBench repository's README (NVlabs/TokenBench), at the time of the Cosmos 0.1 tokenizers"
CAUTION = (
    "Measured elsewhere, by others, on other data: high-resolution TokenBench clips, with their own script, one "
    "version of which subtracts 8-bit arrays without widening them and so reads too high. Do not compare row by row."
)
TOKENBENCH = (
    Published("Cosmos-DV", "4x8x8", "FSQ", 35.137, 0.887, 19.672),
    Published("Cosmos-DV", "8x8x8", "FSQ", 34.746, 0.872, 43.865),
    Published("Cosmos-DV", "8x16x16", "FSQ", 33.718, 0.828, 113.481),
    Published("VideoGPT", "4x4x4", "VQ", 35.119, 0.914, 13.855),
    Published("OmniTokenizer", "4x8x8", "VQ", 30.152, 0.827, 53.553),
    Published("Cosmos-CV", "4x8x8", "AE", 37.270, 0.928, 6.849),
    Published("Cosmos-CV", "8x8x8", "AE", 36.856, 0.917, 11.624),
    Published("Cosmos-CV", "8x16x16", "AE", 35.158, 0.875, 43.085),
    Published("CogVideoX", "4x8x8", "VAE", 33.149, 0.908, 6.970),
    Published("OmniTokenizer", "4x8x8", "VAE", 29.705, 0.830, 35.867),
)
