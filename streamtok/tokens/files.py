"""Encodes videos and images to token files, and decodes them, one group at a time, so in constant memory.

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

from streamtok.engine.loading import choose_model, load
from streamtok.ingest.core import IngestCore, StreamOptions
from streamtok.io.picture_writer import open_pictures
from streamtok.io.source import count_from_start, open_source, resize_frames
from streamtok.model import Tokenizer
from streamtok.model.decoding import GridDecoder, crop
from streamtok.tokens.options import EncodeOptions
from streamtok.tokens.stream_files import StreamFiles
from streamtok.tokens.tokenfile import TokenFile
from streamtok.types import Frame, TokenGroup


@dataclass(frozen=True)
class FileSummary:
    """What was written.

    `skipped` counts groups that were left out: when encoding, those whose latent was not finite; when decoding, those
    before the first keyframe. If the pictures change their size, `others` are the files of the further sizes.
    """

    path: Path
    frames: int  # real ones
    groups: int
    shape: tuple[int, ...]  # of the first grid or picture
    repeated: int = 0  # frames that fill groups
    skipped: int = 0
    damaged: int = 0  # frames that could not be read
    others: tuple[Path, ...] = ()

    @property
    def bytes(self) -> int:
        """The size of what was written, in bytes."""
        files = self.path.iterdir() if self.path.is_dir() else [self.path, *self.others]
        return sum(file.stat().st_size for file in files)


def encode_file(source: str, out: str | Path, model: str = "nano", options: EncodeOptions | None = None) -> FileSummary:
    """Encode a video, an image or any source that `streamtok.io` opens into the token file `out`.

    Frames take the same way as live ones: a keyframe first, then groups. A lost frame or a change of size starts a new
    epoch. Each further size has a file of its own (`number_path`). Times are kept as presentation times. Raises
    ValueError for what cannot be encoded, OSError for what cannot be read or written; after an error there is no file.
    """
    options = options or EncodeOptions()
    with open_source(source, max_frames=options.max_frames) as opened:
        tok = load(model, options.deterministic, engine="default", device=options.device)
        size, frames = options.size, count_from_start(opened)
        if size and any(side % tok.config.spatial_compression for side in size):
            frames = resize_frames(frames, size)
            size = None  # the core pads sizes that are off the grid
        stream_options = StreamOptions("lossless", keyframe_interval=0, size=size, hold=options.hold)
        core = IngestCore(tok, {"cam0": stream_options}, context=options.context)
        total = options.max_frames or opened.expected_frames or None
        frames = iter(tqdm(frames, "encode", total, unit="frame", disable=options.quiet or None))
        first = next(frames, None)
        if first is None:
            raise ValueError(f"{source}: there is no frame in it")
        facts = {"model": model, "source": Path(source).name, "fps": opened.fps}
        with StreamFiles(Path(out), core, facts) as written:
            for group in encode_frames(core, itertools.chain([first], frames)):
                written.write(group)
    names = "frames", "groups", "repeated"
    encoded, groups, repeated = (sum(getattr(file, name) for file in written.files) for name in names)
    skipped, damaged = core.lane("cam0").counts["nonfinite"], opened.counts["damaged"]
    first_file, *others = written.files
    paths = tuple(file.path for file in others)
    return FileSummary(first_file.path, encoded, groups, first_file.grid_shape, repeated, skipped, damaged, paths)


def encode_frames(core: IngestCore, frames: Iterable[Frame]) -> Iterator[TokenGroup]:
    """Yield the groups of `frames`; the last one is filled up by repeating its last frame."""
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

    Padding is cropped, repeated frames are left out, and times are kept, counted from the first frame. `model` None is
    the one that the file names; `max_frames` limits the pictures. Raises ValueError if another tokenizer made the
    tokens, or the file is damaged.
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
    """Yield (time in ns, uint8 RGB (h, w, 3)) of every frame without repeats; the first group must be a keyframe."""
    decoder = GridDecoder(tok, context=meta.get("context") or "model")
    for group in groups:
        pictures = crop(decoder.step(group.tokens, group.keyframe), meta.get("source_rect"))
        yield from zip(group.capture_ns, pictures[: len(group.frame_ids)], strict=True)


def picture_size(meta: dict[str, Any]) -> tuple[int, int]:
    """The (H, W) of decoded pictures: the encoded size without padding."""
    height, width = (meta.get("source_rect") or meta["image_size"])[-2:]
    return height, width


def load_matching(path: Path, meta: dict[str, Any], model: str | None) -> Tokenizer:
    """Load the tokens' tokenizer: `model`, or the one that `meta` names; ValueError if its fingerprint differs."""
    tok = load(choose_model(str(path), meta.get("model"), model, local=True))
    tok.check_fingerprint(meta["tokenizer"], f"{path} was made by tokenizer")
    return tok
