"""Encodes and decodes files, as Cosmos' command line does, picture by picture in constant memory."""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from streamtok.io.picture_writer import PictureWriter, open_pictures
from streamtok.io.source import count_from_start, open_source, resize_frames
from streamtok.io.suffixes import IMAGE_SUFFIXES
from streamtok.measures import psnr_from_mse
from streamtok.model import Tokenizer
from streamtok.model.decoding import GridDecoder
from streamtok.model.frames import match_channels
from streamtok.types import Frame


@dataclass(frozen=True)
class Reconstructed:
    """The result for one file: frames, their (height, width), PSNR in dB over all of them, and token bits per pixel."""

    source: str
    out: str
    frames: int
    size: tuple[int, int]
    psnr: float
    bits_per_pixel: float


def reconstruct_file(
    tok: Tokenizer,
    source: str,
    out: Path,
    *,
    short_size: int | None = None,
    temporal_window: int | None = None,
    output_fps: float | None = None,
    save_input: bool = False,
) -> Reconstructed:
    """Encode and decode a video or an image into `out`.

    `short_size` first resizes the shorter side to so many pixels. State is reset every `temporal_window` frames (None:
    never). Videos are written at `output_fps` (None: the source's). `save_input` also writes the input, resized, as
    NAME_input. Raises ValueError or OSError; after an error there is no file.
    """
    with open_source(source) as opened:
        counted = count_from_start(opened)
        first = next(counted, None)
        if first is None:
            raise ValueError(f"{source}: there is no frame in it")
        frames: Iterable[Frame] = itertools.chain([first], counted)
        size = shorten(first.image.shape[:2], short_size)
        if size != first.image.shape[:2]:
            frames = resize_frames(frames, size)
        outs = [out, out.with_stem(f"{out.stem}_input")] if save_input else [out]
        writers: list[PictureWriter] = []
        try:
            writers += (open_pictures(each, size, output_fps or opened.fps) for each in outs)
            mse, count = _write_pairs(pair_pictures(tok, frames, temporal_window), writers, output_fps)
        except BaseException:
            for writer in writers:
                writer.abort()
            raise
    for writer in writers:
        writer.close()
    bits = 8 * tok.config.in_channels / tok.config.compression_ratio
    return Reconstructed(source, str(out), count, size, psnr_from_mse(mse), round(bits, 4))


def _write_pairs(
    pairs: Iterable[tuple[Frame, np.ndarray]], writers: list[PictureWriter], fps: float | None
) -> tuple[float, int]:
    """Write the pairs of `pair_pictures`; returns their mean squared error on the 0..1 scale, and their number."""
    total, count, start_ns = 0.0, 0, None
    for frame, shown in pairs:
        start_ns = frame.capture_ns if start_ns is None else start_ns
        now = round(count * 1e9 / fps) if fps else frame.capture_ns - start_ns
        for writer, picture in zip(writers, (shown, frame.image), strict=False):
            writer.write(picture, now)
        total += float(np.square(frame.image.astype(np.float32) - shown).mean()) / 255**2
        count += 1
    return total / count, count


def pair_pictures(tok: Tokenizer, frames: Iterable[Frame], window: int | None) -> Iterator[tuple[Frame, np.ndarray]]:
    """Yield each frame with its reconstruction, uint8 RGB (H, W, 3).

    State carries over from frame to frame, and is reset every `window` frames. An incomplete group repeats its last
    frame; sides off the token grid are padded by their last row and column.
    """
    source = iter(frames)
    for first in source:
        rest = source if window is None else itertools.islice(source, window - 1)
        yield from _pair_epoch(tok, first, rest)


def _pair_epoch(tok: Tokenizer, first: Frame, rest: Iterable[Frame]) -> Iterator[tuple[Frame, np.ndarray]]:
    """As `pair_pictures` for the frames of one epoch: each with its reconstruction, uint8 RGB (H, W, 3)."""
    height, width = first.image.shape[:2]
    step = tok.config.spatial_compression
    sides = ((0, -height % step), (0, -width % step), (0, 0))
    stream, decoder = tok.stream(1, height + sides[0][1], width + sides[1][1]), GridDecoder(tok)
    frames = iter(rest)
    group = [first]
    while group:
        if any(frame.image.shape != first.image.shape for frame in group):
            raise ValueError(f"frames change their size from {height}x{width}; resize them with short_size")
        keyframe = group[0] is first
        images = [np.pad(frame.image, sides, mode="edge") for frame in group]
        images += images[-1:] * (0 if keyframe else tok.group - len(group))
        clip = torch.from_numpy(np.stack(images)).permute(3, 0, 1, 2)[None]
        tokens = stream.step(match_channels(clip, tok.config.in_channels)).tokens
        shown = decoder.step(tokens[0], keyframe)
        yield from ((frame, picture[:height, :width]) for frame, picture in zip(group, shown, strict=False))
        group = list(itertools.islice(frames, tok.group))


def shorten(size: tuple[int, int], short: int | None) -> tuple[int, int]:
    """(H, W) scaled to a shorter side of `short`, with the other side even, as Cosmos' commands do."""
    height, width = size
    if short is None:
        return height, width
    long = math.floor(max(size) * short / min(size) + 0.5)
    long += long % 2
    return (short, long) if height <= width else (long, short)


def output_name(source: str, folder: Path) -> Path:
    """The path in `folder` for a source's reconstruction: PNG for images, MP4 for the rest."""
    image = Path(source).suffix.lower() in IMAGE_SUFFIXES
    return folder / f"{Path(source).stem}{'.png' if image else '.mp4'}"
