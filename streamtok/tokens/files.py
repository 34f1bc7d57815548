"""Videos and images to token files and back, one group at a time: memory does not grow with the length.

encode_file("drive.mp4", "tokens.safetensors", model="nano")
decode_file("tokens.safetensors", "back.mp4")
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from streamtok.engine.loading import choose_model, engine_configuration, load
from streamtok.ingest.core import IngestCore, StreamOptions
from streamtok.ingest.token_grid import grid_shape, levels_of
from streamtok.io.picture_writer import open_pictures
from streamtok.io.source import open_frames, resize_frames
from streamtok.model import Tokenizer
from streamtok.model.decoding import GridDecoder, crop
from streamtok.tokens.options import EncodeOptions
from streamtok.tokens.tokenfile import SizeChange, TokenFile, TokenFileWriter
from streamtok.types import Frame, TokenGroup


@dataclass(frozen=True)
class FileSummary:
    """What was written: real frames, groups, the shape of a grid or picture, and frames repeated to fill groups.

    `damaged` counts frames that could not be read. `skipped` counts groups that were left out: when encoding, those
    whose latent was not finite; when decoding, those before the first keyframe.
    """

    path: Path
    frames: int
    groups: int
    shape: tuple[int, ...]
    repeated: int = 0
    skipped: int = 0
    damaged: int = 0

    @property
    def bytes(self) -> int:
        """Size of what was written, bytes."""
        files = self.path.iterdir() if self.path.is_dir() else [self.path]
        return sum(file.stat().st_size for file in files)


def encode_file(source: str, out: str | Path, model: str = "nano", options: EncodeOptions | None = None) -> FileSummary:
    """Encode a video, an image or any source that `streamtok.io` opens into the token file `out`.

    The first frame is a keyframe, the rest follows in groups, through the same core as live streams; a frame that the
    source lost starts a new epoch. Times are kept as presentation times. Raises ValueError for what cannot be encoded,
    OSError for what cannot be read or written; after an error there is no file, but for a change of size, which a token
    file cannot hold: what comes before is kept.
    """
    options = options or EncodeOptions()
    with open_frames(source, max_frames=options.max_frames) as opened:
        tok = load(model, options.deterministic, engine="default", device=options.device)
        size, frames = options.size, opened.frames
        if size and any(side % tok.config.spatial_compression for side in size):
            frames = resize_frames(frames, size)
            size = None  # the core pads what is off the grid
        stream_options = StreamOptions("lossless", keyframe_interval=0, size=size)
        core = IngestCore(tok, {"cam0": stream_options}, context=options.context)
        frames = iter(tqdm(frames, "encode", opened.total, unit="frame", disable=None if options.progress else True))
        first = next(frames, None)
        if first is None:
            raise ValueError(f"{source}: there is no frame in it")
        meta = token_meta(core, "cam0", first.image.shape[:2])
        meta |= {"model": model, "source": Path(source).name, "fps": opened.fps}
        with TokenFileWriter(out, meta) as writer:
            changed = _write_groups(writer, encode_frames(core, itertools.chain([first], frames)))
    if changed is not None:
        raise ValueError(f"{source}: {changed}. What comes before is in {out}")
    lost, shape = core.lane("cam0").counts["nonfinite"], grid_shape(tok.config, *meta["image_size"])
    damaged = opened.counts["damaged"]
    return FileSummary(Path(out), writer.frames, writer.groups, shape, writer.repeated, lost, damaged)


def _write_groups(writer: TokenFileWriter, groups: Iterator[TokenGroup]) -> SizeChange | None:
    """Write the groups, up to a change of size; returns what changed."""
    try:
        for group in groups:
            writer.write(group)
    except SizeChange as change:
        return change
    return None


def encode_frames(core: IngestCore, frames: Iterable[Frame]) -> Iterator[TokenGroup]:
    """The groups that `frames` make, the last one filled up with repeats of its last frame."""
    for frame in frames:
        yield from core.feed(frame)
    for stream in core.lanes:
        yield from core.flush(stream, "pad")


def decode_file(
    path: str | Path,
    out: str | Path,
    model: str | None = None,
    device: str | None = None,
    progress: bool = False,
    max_frames: int | None = None,
) -> FileSummary:
    """Decode the token file `path` into `out`: .mp4, .mkv, .mov, .png (one frame) or a folder of PNGs.

    Padding is cropped, repeated frames are left out, times are kept (counted from the first frame). `model` None takes
    the one that the file names; `max_frames` ends it after so many pictures. ValueError if the tokens were made by
    another tokenizer, or the file is damaged.
    """
    file = TokenFile(path)
    file.check()
    tok = load(load_matching(file.path, file.meta, model), engine="default", device=device)
    start = int(np.argmax(file.keyframe)) if file.keyframe.any() else len(file)
    if start == len(file):
        raise ValueError(f"{path} has no keyframe: nothing in it can be decoded; a decoder starts at a keyframe")
    size = picture_size(file.meta)
    pictures = open_pictures(out, size, file.meta.get("fps"))
    first = int(file.frame_start[start])
    first_ns, frames = int(file.capture_ns[first]), 0
    stop = len(file) if max_frames is None else int(np.searchsorted(file.frame_start[:-1], first + max_frames))
    try:
        shown = tqdm(range(start, stop), "decode", unit="group", disable=None if progress else True)
        decoded = decode_groups(tok, (file.group(index) for index in shown), file.meta)
        for time_ns, picture in itertools.islice(decoded, max_frames):
            pictures.write(picture, time_ns - first_ns)
            frames += 1
    except BaseException:
        pictures.abort()
        raise
    pictures.close()
    return FileSummary(Path(out), frames, stop - start, (*size, 3), skipped=start)


def decode_groups(
    tok: Tokenizer, groups: Iterable[TokenGroup], meta: dict[str, Any]
) -> Iterator[tuple[int, np.ndarray]]:
    """(time in ns, uint8 RGB (h, w, 3)) of every real frame; the first group must be a keyframe."""
    decoder = GridDecoder(tok, context=meta.get("context") or "model")
    for group in groups:
        pictures = crop(decoder.step(group.tokens, group.keyframe), meta.get("source_rect"))
        yield from zip(group.capture_ns, pictures[: len(group.frame_ids)], strict=True)


def picture_size(meta: dict[str, Any]) -> tuple[int, int]:
    """(H, W) of the pictures that come back: the encoded size without its padding."""
    height, width = (meta.get("source_rect") or meta["image_size"])[-2:]
    return height, width


def token_meta(core: IngestCore, stream: str, source_size: tuple[int, int]) -> dict[str, Any]:
    """What a token file says about the tokenizer and the pictures of one stream, whose frames have `source_size`."""
    tok = core.tokenizer
    size = core.open(stream, source_size)
    return {
        "tokenizer": tok.fingerprint,
        "config": tok.config.to_dict(),
        "context": core.context or tok.config.context,
        "engine": engine_configuration(tok),
        "stream": stream,
        "clock": "presentation",
        "source_size": source_size,
        "image_size": size,
        "source_rect": core.preprocessor(stream, source_size).rect,
        "grid": tok.config.grid(*size),
        "levels": levels_of(tok.config),
    }


def load_matching(path: Path, meta: dict[str, Any], model: str | None) -> Tokenizer:
    """The tokenizer that made the tokens: `model`, or the one that `meta` names; ValueError if it is another."""
    tok = load(choose_model(str(path), meta.get("model"), model, local=True))
    tok.check_fingerprint(meta["tokenizer"], f"{path} was made by tokenizer")
    return tok
