"""Exports tokens in the LeRobot v3 dataset layout, without needing LeRobot.

A frame of the dataset is one token grid; its rate is the group rate. An episode is a stretch without a gap: the
layout's timestamps are `frame_index / fps`, as if a keyframe took as long as a group. True times are in columns of
their own; join actions and other sensors by `time_ns`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from streamtok.model import Tokenizer
from streamtok.model.decoding import GridDecoder, crop
from streamtok.times import find_nearest, find_reach, usual_step
from streamtok.tokens.files import load_matching, picture_size
from streamtok.tokens.grids import BLOCK, Grids, Track, read_headers
from streamtok.tokens.lerobot_layout import OWN, PICTURES, DatasetWriter, write_json
from streamtok.tokens.options import ExportOptions
from streamtok.tokens.tracks import Facts, TokenSource, open_drives, order_by_stream, read_facts

SAME_RATE = 0.05  # the measured rates of cameras of one nominal rate differ by less than this share


def export_lerobot(source: TokenSource, out: Path, options: ExportOptions) -> dict[str, int]:
    """Write `source` in the LeRobot v3 layout: a column of tokens (int32, flat) per stream, aligned to the first one.

    Besides LeRobot's own columns there are `observation.tokens.STREAM`, `capture_ns`, `time_ns` (see `Grids`), `epoch`
    and `keyframe`. With `options.video`, `observation.images.STREAM` is decoded from the tokens. A row is then left
    out, and counted as "undecodable", if a grid between it and its keyframe is missing.
    `meta/streamtok.json` names the tokenizer, the grid, and the file of each episode. Raises ValueError if drives
    differ in streams, or in rate and `options.fps` is None, or if no row is left.
    """
    cameras = _open_cameras(source, options)
    first, names = cameras[0][0], [track.stream for track in cameras[0]]
    fps = options.fps or _find_rate([tracks[0] for tracks in cameras])
    facts = read_facts(first)
    tok = load_matching(first.path, first.meta, options.model) if options.video else None
    features = _describe_columns(names, facts)
    if options.video:
        features |= {PICTURES + name: _describe_video(first, fps) for name in names}
    writer = DatasetWriter(out, fps, features, options.task)
    files: list[str] = []
    undecodable = 0
    for tracks in cameras:
        undecodable += _write_drive(tracks, writer, tok)
        files += [tracks[0].file] * (len(writer.episodes) - len(files))
    if not writer.rows:
        raise ValueError(
            f"{first.path}: nothing to export: at {undecodable} times all of {names} have a grid, and none of them can "
            "be decoded (--video), for its keyframe is missing"
        )
    writer.close()
    write_json(out / "meta" / "streamtok.json", {**facts, "files": files})
    counts = {"rows": writer.rows, "episodes": len(writer.episodes)}
    return counts | ({"undecodable": undecodable} if options.video else {})


def _open_cameras(source: TokenSource, options: ExportOptions) -> list[list[Track]]:
    """Open the tracks of each drive, the same streams in the same order; ValueError if a drive has others."""
    drives = open_drives(source, options.streams, together=True)
    cameras = [order_by_stream(drive, options.streams or sorted(track.stream for track in drive)) for drive in drives]
    names = [track.stream for track in cameras[0]]
    for tracks in cameras[1:]:
        found = [track.stream for track in tracks]
        if found != names:
            other = cameras[0][0].path
            raise ValueError(f"{tracks[0].path} has streams {found}, {other} {names}: choose with --stream")
    return cameras


def _write_drive(tracks: list[Track], writer: DatasetWriter, tok: Tokenizer | None) -> int:
    """Write the episodes of one drive; returns how many rows were left out as undecodable."""
    known, rows = [read_headers(track) for track in tracks], align_rows(tracks)
    cameras = [TrackPictures(track, grids, tok) for track, grids in zip(tracks, known, strict=True) if tok is not None]
    decodable = np.ones(rows.shape[1], bool)
    for camera, numbers in zip(cameras, rows, strict=False):
        decodable &= camera.keyframes[numbers] >= 0
    for episode in split_episodes(rows[:, decodable], known):
        writer.start_episode()
        for first in range(0, episode.shape[1], BLOCK):
            part = episode[:, first : first + BLOCK]
            pictures = {
                PICTURES + camera.stream: map(camera.picture, numbers)
                for camera, numbers in zip(cameras, part, strict=False)
            }
            writer.add(_make_columns(tracks, part), pictures)
    return int((~decodable).sum())


class TrackPictures:
    """Decodes the pictures of a track's grids, each after the earlier ones of its epoch; `known` are its headers."""

    def __init__(self, track: Track, known: Grids, tok: Tokenizer) -> None:
        self.stream, self.keyframes = track.stream, known.find_keyframes()
        self._track = track
        self._decoder = GridDecoder(tok, context=track.meta.get("context") or "model")
        self._at, self._picture = -1, np.zeros(0, np.uint8)

    def picture(self, number: int) -> np.ndarray:
        """The last frame of a grid's group, uint8 RGB (h, w, 3) without padding; `number` must not decrease."""
        for index in range(max(self._at + 1, int(self.keyframes[number])), number + 1):
            grids = self._track.read(np.array([index]))
            frames = self._decoder.step(grids.tokens[0], bool(grids.keyframe[0]))
            self._at, self._picture = index, crop(frames[-1], self._track.meta.get("source_rect"))
        return self._picture


def align_rows(tracks: Sequence[Track]) -> np.ndarray:
    """Match the grids of all tracks to the times of the first; returns their indices, (tracks, n) int64.

    Times at which some camera has no grid within its reach are left out; of a slower camera grids are repeated.
    """
    times = tracks[0].times_ns
    others = [find_nearest(track.times_ns, times, find_reach(np.diff(track.times_ns))) for track in tracks[1:]]
    found = np.stack([np.arange(len(times)), *others])
    return found[:, (found >= 0).all(0)]


def split_episodes(rows: np.ndarray, known: Sequence[Grids]) -> list[np.ndarray]:
    """Cut `rows` (tracks, n) at gaps of any camera and at left-out rows; `known` are the tracks' headers.

    A grid that alignment skips or repeats is not a gap.
    """
    goes_on = np.diff(rows[0]) == 1
    for grids, numbers in zip(known, rows, strict=True):
        goes_on &= np.diff(np.cumsum(grids.find_gaps())[numbers]) == 0
    return np.split(rows, np.flatnonzero(~goes_on) + 1, axis=1) if rows.size else []


def _find_rate(tracks: list[Track]) -> float:
    """The grids per second of all drives, as the layout has one rate; ValueError names a drive with another."""
    fps = _measure_rate(tracks[0])
    for track in tracks[1:]:
        if len(track) > 1 and abs(_measure_rate(track) / fps - 1) > SAME_RATE:
            raise ValueError(
                f"{track.path} has {_measure_rate(track)} grids per second, {tracks[0].path} {fps}: a LeRobot dataset "
                "has one rate. Export them apart, or give --fps for timestamps that count rows"
            )
    return fps


def _measure_rate(track: Track) -> float:
    """Grids per second from the median step of a track's times, rounded to 0.001; ValueError for a single grid."""
    if len(track) < 2:
        raise ValueError(f"{track.path} has a single grid, which tells no rate: give it with --fps")
    return round(1e9 / usual_step(track.times_ns), 3)


def _describe_columns(names: list[str], facts: Facts) -> dict[str, dict]:
    size = int(np.prod(facts["grid"]))
    kind = "float32" if facts["dtype"] == "float16" else "int32"
    integers = dict.fromkeys(("capture_ns", "time_ns", "epoch", "keyframe"), ("int64", 1))
    columns = {f"observation.tokens.{name}": (kind, size) for name in names} | integers
    columns |= {"timestamp": ("float32", 1)} | dict.fromkeys(OWN[1:], ("int64", 1))
    return {name: {"dtype": dtype, "shape": [size], "names": None} for name, (dtype, size) in columns.items()}


def _make_columns(tracks: list[Track], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Make the columns of the grids at `rows` (tracks, n): (n,), and flat tokens (n, D) of each camera."""
    first, *others = [track.read(numbers) for track, numbers in zip(tracks, rows, strict=True)]
    columns = {"capture_ns": first.capture_ns, "time_ns": first.time_ns, "epoch": first.epoch}
    columns["keyframe"] = first.keyframe.astype(np.int64)
    for track, grids in zip(tracks, (first, *others), strict=True):
        kind = np.float32 if grids.tokens.dtype == np.float16 else np.int32
        columns[f"observation.tokens.{track.stream}"] = grids.tokens.reshape(len(grids.tokens), -1).astype(kind)
    return columns


def _describe_video(track: Track, fps: float) -> dict[str, Any]:
    height, width = picture_size(track.meta)
    info = {"video.height": height, "video.width": width, "video.codec": "h264", "video.fps": fps, "has_audio": False}
    info |= {"video.pix_fmt": "yuv444p" if height % 2 or width % 2 else "yuv420p", "video.is_depth_map": False}
    return {"dtype": "video", "shape": [height, width, 3], "names": ["height", "width", "channels"], "info": info}
