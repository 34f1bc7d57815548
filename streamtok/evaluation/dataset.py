"""Finds and reads the clips and images of evaluation datasets.

Layouts are recognized without configuration:

- any tree of video files (TokenBench: one folder per source with mp4 files)
- DAVIS: `JPEGImages/480p/<sequence>/00000.jpg`, one clip per folder of numbered pictures, without its `Annotations`
- any tree of pictures (MS-COCO `val2017/`, ImageNet `val/<class>/`, FFHQ `00000/`, CelebA-HQ), each a clip of one frame
"""

import itertools
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from streamtok.evaluation.metrics import SSIM_SIDE
from streamtok.io.images.stills import read_image
from streamtok.io.spec import split_file
from streamtok.io.suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_image, is_video
from streamtok.io.video.reader import open_reader

SEQUENCE_FPS = 24.0  # of sequences of numbered pictures, as in DAVIS
KNOWN = (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES)
log = logging.getLogger("streamtok.evaluation")


@dataclass(frozen=True)
class Clip:
    """A named clip of frames, uint8 RGB (T, H, W, 3); a still picture has T = 1 and no frame rate."""

    name: str
    frames: np.ndarray
    fps: float | None = None


@dataclass(frozen=True)
class ClipFile:
    """The files of a clip: a video file, one picture, or the numbered pictures of one sequence."""

    name: str
    paths: tuple[Path, ...]
    fps: float | None = None  # of a sequence of pictures; a video file has its own


@dataclass
class ClipSet:
    """Reads clip files as `Clip`s, one at a time; unreadable ones are logged and named in `skipped`.

    `damaged` has how many pictures `VideoReader` has left out of a clip, by its name.

    lines: the short side after area resizing (smaller sources stay as they are), None for native size. Both sides are
    then cropped about the centre to `multiple`. frames: the most to keep; 1 + k * group of them are.
    """

    files: Sequence[ClipFile]
    lines: int | None = 256
    frames: int = 33
    multiple: int = 8
    group: int = 4
    skipped: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, int] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Clip]:
        for file in self.files:
            try:
                yield self.read(file)
            except (OSError, ValueError) as error:
                self.skipped[file.name] = str(error)
                log.warning("event=skipped clip=%s reason=%s", file.name, error)

    def read(self, file: ClipFile) -> Clip:
        """Read and resize one clip; ValueError names a file without pictures, or with pictures that are too small."""
        if split_file(str(file.paths[0]))[0].suffix.lower() in VIDEO_SUFFIXES:
            frames, fps = self._read_video(file)
        else:
            frames, fps = _read_images(file, self.frames), file.fps
        keep = 1 + (len(frames) - 1) // self.group * self.group
        fitted = np.stack([fit(frame, self.lines, self.multiple) for frame in frames[:keep]])
        height, width = fitted.shape[1:3]
        if min(height, width) < SSIM_SIDE:
            raise ValueError(f"{file.name} is judged at {height}x{width}, sides of {SSIM_SIDE} pixels are needed")
        return Clip(file.name, fitted, fps)

    def _read_video(self, file: ClipFile) -> tuple[list[np.ndarray], float | None]:
        """The first frames of a video, uint8 RGB (H, W, 3), and its frame rate; ValueError if it has no frame."""
        with open_reader(file.paths[0]) as video:
            images = [frame.image for frame in itertools.islice(video, self.frames)]
            damaged = video.counts["damaged"]
        if not images:
            raise ValueError(f"{file.paths[0]} holds no frame that can be decoded ({damaged} are damaged)")
        if damaged:
            self.damaged[file.name] = damaged
            log.warning("event=damaged clip=%s left_out=%d kept=%d", file.name, damaged, len(images))
        return images, video.fps


def find_clips(places: Sequence[str | Path], *, images: bool | None = None) -> list[ClipFile]:
    """Find the clips of folders and files; those of a folder are sorted by name.

    images: True takes every picture as its own clip, False joins the numbered pictures of a folder to a sequence. None
    decides by layout: a folder above them named JPEGImages or frames means sequences. Raises FileNotFoundError for a
    missing file or folder, and ValueError if nothing is found.
    """
    found: list[ClipFile] = []
    for given in map(str, places):
        place, _ = split_file(given)
        if not place.exists():
            raise FileNotFoundError(f"{place} does not exist; give a video, a picture or a folder of them")
        if place.suffix.lower() not in KNOWN and not place.is_dir():
            raise ValueError(f"{place}: unknown kind of file; expected one of {', '.join(KNOWN)}")
        found += _find_in_folder(place, images) if place.is_dir() else [ClipFile(place.stem, (Path(given),))]
    if not found:
        raise ValueError(f"no videos or pictures in {', '.join(map(str, places))}")
    return _with_distinct_names(found)


def _with_distinct_names(files: list[ClipFile]) -> list[ClipFile]:
    """Number the later ones of files with the same name, which may come from different folders."""
    seen: Counter[str] = Counter()
    out = []
    for file in files:
        seen[file.name] += 1
        out.append(file if seen[file.name] == 1 else replace(file, name=f"{file.name} ({seen[file.name]})"))
    return out


def fit(image: np.ndarray, lines: int | None, multiple: int) -> np.ndarray:
    """Resize a frame (H, W, 3) uint8 to a short side of `lines` by area, then crop its centre to `multiple`."""
    height, width = image.shape[:2]
    if lines is not None and min(height, width) > lines:
        scale = lines / min(height, width)
        height, width = max(lines, round(height * scale)), max(lines, round(width * scale))
        height, width = (lines, width) if height <= width else (height, lines)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    out_height, out_width = height // multiple * multiple, width // multiple * multiple
    if not out_height or not out_width:
        raise ValueError(f"a picture of {height}x{width} is smaller than the token grid's step of {multiple} pixels")
    top, left = (height - out_height) // 2, (width - out_width) // 2
    return np.ascontiguousarray(image[top : top + out_height, left : left + out_width])


def _read_images(file: ClipFile, frames: int) -> list[np.ndarray]:
    named = (split_file(str(path)) for path in file.paths[:frames])
    images = [read_image(path, **options) for path, options in named]
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise ValueError(f"the pictures of {file.name} differ in size: {sorted(shapes)}")
    return images


def _find_in_folder(root: Path, images: bool | None) -> list[ClipFile]:
    found = []
    pictures: dict[Path, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        if path.relative_to(root).parts[0].lower().startswith("annotations"):
            continue  # DAVIS keeps its masks there
        if is_video(path):
            found.append(ClipFile(path.relative_to(root).with_suffix("").as_posix(), (path,)))
        elif is_image(path):
            pictures.setdefault(path.parent, []).append(path)
    for folder, paths in pictures.items():  # DAVIS has each sequence one or two folders below JPEGImages
        named = any(part.lower() in ("jpegimages", "frames") for part in folder.resolve().parts[-3:-1])
        if images is False or (images is None and named):
            name = folder.relative_to(root).as_posix() if folder != root else root.name
            found.append(ClipFile(name, tuple(sorted(paths, key=_number)), SEQUENCE_FPS))
        else:
            found += [ClipFile(path.relative_to(root).with_suffix("").as_posix(), (path,)) for path in paths]
    return sorted(found, key=lambda clip: clip.name)


def _number(path: Path) -> tuple[int, str]:
    digits = re.findall(r"\d+", path.stem)
    return (int(digits[-1]) if digits else -1, path.name)
