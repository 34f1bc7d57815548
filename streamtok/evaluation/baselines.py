"""Baselines to compare a tokenizer with in the same run: video codecs at its bit rate, plain averages, no rounding."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from streamtok.evaluation.dataset import Clip
from streamtok.evaluation.layouts import pictures_to_unit, pictures_to_video, video_to_unit
from streamtok.model.quantizer import FSQ, Bottleneck, Quantized
from streamtok.model.tokenizer import Tokenizer

CODECS = {"x264": "libx264", "x265": "libx265"}
_CRF_RANGE, _CRF_STEPS = (0.0, 51.0), 9


@dataclass(frozen=True)
class CodecClip:
    """A clip after a video codec: decoded frames uint8 RGB (T, H, W, 3), its bits, and its constant-rate factor."""

    frames: np.ndarray
    bits: int
    crf: float


def codec_at_bits(frames: np.ndarray, codec: str, budget_bits: float) -> CodecClip:
    """The best quality that "x264" or "x265" reaches in `budget_bits`: frames uint8 RGB (T, H, W, 3), even sides.

    Settings are preset veryfast, tune zerolatency (no delay, as in a live stream), one keyframe at the start, 4:2:0.
    The constant-rate factor is searched until the packets just fit. If nothing fits, the smallest result is returned.
    """
    low, high = _CRF_RANGE
    best = encode_at_crf(frames, codec, high)
    if best.bits > budget_bits:
        return best
    for _ in range(_CRF_STEPS):
        middle = (low + high) / 2
        coded = encode_at_crf(frames, codec, middle)
        if coded.bits <= budget_bits:
            best, high = coded, middle
        else:
            low = middle
    return best


def encode_at_crf(frames: np.ndarray, codec: str, crf: float) -> CodecClip:
    """Encode and decode frames uint8 RGB (T, H, W, 3), even sides, by "x264" or "x265" at a constant-rate factor."""
    encoder: Any = av.CodecContext.create(CODECS[codec], "w")
    encoder.height, encoder.width = frames.shape[1:3]
    encoder.pix_fmt, encoder.time_base, encoder.framerate = "yuv420p", Fraction(1, 30), Fraction(30)
    encoder.thread_count = 1
    encoder.flags |= av.codec.context.Flags.global_header  # headers go to extradata, so that bits are picture data only
    params = "keyint=100000" if codec == "x264" else "keyint=100000:bframes=0:pools=1:frame-threads=1:log-level=error"
    encoder.options = {"preset": "veryfast", "tune": "zerolatency", "crf": f"{crf:.3f}", f"{codec}-params": params}
    packets = []
    for number, image in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts = number
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    return CodecClip(_decode(packets, codec, encoder.extradata), 8 * sum(packet.size for packet in packets), crf)


def _decode(packets: list, codec: str, headers: bytes | None) -> np.ndarray:
    """Decode packets to uint8 RGB (T, H, W, 3)."""
    decoder: Any = av.CodecContext.create({"x264": "h264", "x265": "hevc"}[codec], "r")
    decoder.thread_count = 1
    decoder.extradata = headers
    frames = [frame for packet in packets for frame in decoder.decode(packet)] + decoder.decode(None)
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


def average_grid(clip: Clip, group: int, step: int) -> Tensor:
    """The mean colour of each token's block of pixels, enlarged bicubically: -> (T, 3, H, W) in 0..1.

    The keyframe has averages of its own, then each group of `group` frames shares one: what a token grid of unrounded
    colours would show. `step` is the side of a block in pixels.
    """
    pixels = pictures_to_unit(clip.frames)
    size = pixels.shape[-2:]
    shown = []
    for piece in [pixels[:1], *pixels[1:].split(group)]:
        small = F.avg_pool2d(piece.mean(0, keepdim=True), step)
        large = F.interpolate(small, size=size, mode="bicubic", align_corners=False).clamp(0, 1)
        shown.append(large.expand(len(piece), -1, -1, -1))
    return torch.cat(shown)


class Unrounded(Bottleneck):
    """An FSQ bottleneck that bounds but does not round, to see what quantization costs."""

    def __init__(self, fsq: FSQ):
        super().__init__()
        self.fsq = fsq
        self.inputs = fsq.inputs

    def forward(self, z: Tensor) -> Quantized:
        """z (N, C, h, w) -> unrounded codes in -1..1, and the indices of the rounded ones."""
        half_width = torch.tensor([level // 2 for level in self.fsq.levels], device=z.device).view(-1, 1, 1)
        return replace(self.fsq(z), codes=(self.fsq.bound(z.float()) / half_width).to(z.dtype))


def make_unrounded(tok: Tokenizer) -> Callable[[Clip], Tensor]:
    """A function that reconstructs a clip by `tok` without rounding: Clip -> (T, 3, H, W) in 0..1, on its device.

    ValueError for a tokenizer whose quantizer is not FSQ.
    """
    fsq = tok.quantizer
    if not isinstance(fsq, FSQ):
        raise ValueError(f"only FSQ tokenizers have an unrounded form, {tok.config.name} is {tok.config.quantizer}")

    @torch.inference_mode()
    def show(clip: Clip) -> Tensor:
        """-> (T, 3, H, W) in 0..1."""
        video = pictures_to_video(clip.frames).to(tok.device)
        tok.quantizer = Unrounded(fsq)
        try:
            return video_to_unit(tok(video.float() / 127.5 - 1).reconstruction[0])
        finally:
            tok.quantizer = fsq

    return show
