"""Measures PSNR against the bits of coded tokens, by hold margin, beside video codecs at the same bits.

    python benchmarks/rate_distortion.py CLIP... [--model nano --model nano-p] [--hold 0 --hold 0.25]

It encodes the first 33 frames of each clip at 256 lines, with one keyframe. Bits are those of the coded grids, which
are decoded again, and of the codecs' packets; neither includes headers. x264 and x265 are veryfast and zerolatency;
between points of their curves PSNR is interpolated linearly in log rate. Figures are means over clips.
"""

import argparse
from statistics import fmean

import numpy as np
import torch

from streamtok.coding.coder import TokenCoder
from streamtok.coding.library import coder_for
from streamtok.engine.loading import load
from streamtok.evaluation.baselines import CODECS, encode_at_crf
from streamtok.evaluation.dataset import Clip, ClipSet, find_clips
from streamtok.evaluation.layouts import pictures_to_unit, pictures_to_video, video_to_unit
from streamtok.evaluation.metrics import psnr
from streamtok.model import Tokenizer
from streamtok.training.coder_loop import count_bits

CRFS = range(14, 47, 4)
Curve = tuple[list[float], list[float]]  # log2 of bits per pixel, rising, and PSNR in dB


def trace(clip: Clip, codec: str) -> Curve:
    """Measure the rate-distortion curve of a codec on a clip."""
    points = [encode_at_crf(clip.frames, codec, crf) for crf in reversed(CRFS)]
    rates = [float(np.log2(point.bits / clip.frames[..., 0].size)) for point in points]
    return rates, [psnr(pictures_to_unit(clip.frames), pictures_to_unit(point.frames)) for point in points]


def measure(tok: Tokenizer, coder: TokenCoder, clip: Clip, hold: float) -> tuple[float, float, float]:
    """Bits per token, bits per pixel and PSNR in dB of a clip that is encoded with a hold margin."""
    out = tok.encode(pictures_to_video(clip.frames), hold=hold)
    assert out.indices is not None  # it is a discrete tokenizer
    grids = out.indices[0].numpy().astype(coder.dtype)
    bits = fmean(count_bits(coder, grids))
    decoded = video_to_unit(tok.decode(out.indices)[0])
    return bits, bits * grids.size / clip.frames[..., 0].size, psnr(pictures_to_unit(clip.frames), decoded)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", metavar="CLIP")
    parser.add_argument("--model", action="append")
    parser.add_argument("--hold", action="append", type=float)
    arguments = parser.parse_args()
    clips = list(ClipSet(find_clips(arguments.clips), frames=33))
    curves = [[trace(clip, codec) for clip in clips] for codec in CODECS]
    print("| model | hold | bits a token | bits per pixel | PSNR | " + " | ".join(CODECS) + " |")
    print("| --- " * (5 + len(CODECS)) + "|", flush=True)
    for model in arguments.model or ["nano", "nano-p"]:
        tok = load(model)
        coder = coder_for(tok.fingerprint)
        for hold in arguments.hold or [0.0, 0.125, 0.25, 0.5]:
            found = [measure(tok, coder, clip, hold) for clip in clips]
            bits, rates, decibels = zip(*found, strict=True)
            beside = [
                fmean(float(np.interp(np.log2(rate), *curve)) for rate, curve in zip(rates, of, strict=True))
                for of in curves
            ]
            figures = [f"{value:.2f}" for value in (fmean(decibels), *beside)]
            row = [model, f"{hold:g}", f"{fmean(bits):.2f}", f"{fmean(rates):.4f}", *figures]
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
