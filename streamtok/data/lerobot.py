"""Tokens in the LeRobot v3 dataset layout, written without LeRobot.

A frame of the dataset is one token grid; its rate is the group rate. Episodes are the stretches without a gap, since
the layout's timestamps are `frame_index / fps`, as if a keyframe took as long as a group. True times are in columns of
their own: `time_ns` is what actions and other sensors are joined by.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from streamtok.data.dataset import nearest
from streamtok.data.export_options import ExportOptions
from streamtok.data.grids import Grids, Track, stretches
from streamtok.data.lerobot_layout import OWN, DatasetWriter, VideoColumn, write_json
from streamtok.data.tracks import by_stream, facts_of, open_drives

SAME_RATE = 0.05  # cameras of one nominal rate differ by less


def export_lerobot(source: Any, out: Path, options: ExportOptions) -> dict[str, int]:
    """Write `source` in the LeRobot v3 layout: a column of tokens (int32, flat) per stream, aligned to the first one.

    Columns `observation.tokens.STREAM`, `capture_ns`, `time_ns` (see `Grids`), `epoch` and `keyframe` beside LeRobot's
    own; with `options.video`, `observation.images.STREAM` decoded from the tokens. `meta/streamtok.json` names the
    tokenizer, the grid, and the file of each episode. ValueError if drives differ in streams, or in rate and
    `options.fps` is None.
    """
    drives = open_drives(source, options.streams, together=True)
    cameras = [by_stream(drive, options.streams or sorted(track.stream for track in drive)) for drive in drives]
    names = [track.stream for track in cameras[0]]
    for tracks in cameras[1:]:
        if [track.stream for track in tracks] != names:
            found = [track.stream for track in tracks]
            raise ValueError(
                f"{tracks[0].path} has streams {found}, {cameras[0][0].path} {names}: choose with --stream"
            )
    fps = options.fps or _one_rate([tracks[0] for tracks in cameras])
    facts = facts_of(cameras[0][0])
    out.mkdir(parents=True, exist_ok=True)
    videos = _video_columns(out, cameras[0], fps, options)
    features = _features(names, facts) | {v.key: _video_feature(cameras[0][0], fps) for v in videos}
    writer = DatasetWriter(out, fps, features, options.task)
    files: list[str] = []
    for tracks in cameras:
        _write_drive(tracks, writer, videos)
        files += [tracks[0].file] * (len(writer.episodes) - len(files))
    writer.close()
    write_json(out / "meta" / "streamtok.json", facts | {"files": files})
    for video in videos:
        video.close()
    return {"rows": writer.rows, "episodes": len(writer.episodes)}


def _write_drive(tracks: list[Track], writer: DatasetWriter, videos: list[VideoColumn]) -> None:
    """The episodes of one drive; `videos` has a column for each track, or none at all."""
    names = [track.stream for track in tracks]
    for fresh, rows in aligned_rows(tracks, every=bool(videos)):
        episode = writer.start_episode() if fresh else writer.episodes[-1]
        writer.add(_columns(rows, names))
        for number, video in enumerate(videos):
            if fresh:
                video.start(episode)
            video.add(episode, rows[number], tracks[number].meta)


def aligned_rows(tracks: Sequence[Track], every: bool = False) -> Iterator[tuple[bool, list[Grids]]]:
    """Grids of all tracks at the times of the first: (whether an episode starts, rows of each track).

    An episode ends at a gap of any camera, and at times at which one has no grid within half a step; those are left
    out, and there are the fewest with the slowest camera first. With `every` it also ends where grids of a camera are
    skipped or repeated to keep time: a decoder needs all.
    """
    reference = tracks[0]
    steps = np.diff(reference.times_ns)
    tolerance = int(np.median(steps) / 2) if len(steps) else 0
    last = np.zeros((len(tracks), 0), np.int64)
    for _, indices, _ in stretches(reference):
        times = reference.times_ns[indices]
        found = np.stack([indices, *(nearest(track.times_ns, times, tolerance) for track in tracks[1:])])
        rows = np.concatenate([last, found[:, (found >= 0).all(0)]], 1)
        goes_on = np.diff(rows[:1]) == 1
        for track, numbers in zip(tracks, rows, strict=True):
            goes_on = goes_on & _unbroken(track, numbers) & (not every or np.diff(numbers) == 1)
        new = last.shape[1]  # the row before is there to go on from
        starts = np.concatenate([[not new], ~goes_on[0]])[: rows.shape[1]]
        cuts = [new, *(at for at in np.flatnonzero(starts) if at > new), rows.shape[1]]
        for start, end in itertools.pairwise(cuts if rows.shape[1] > new else []):
            wanted = rows[:, start:end]
            yield bool(starts[start]), [track.read(numbers) for track, numbers in zip(tracks, wanted, strict=True)]
        last = rows[:, -1:]


def _unbroken(track: Track, numbers: np.ndarray) -> np.ndarray:
    """(n - 1,) bool: whether nothing was lost between each of these grids and the one before it."""
    if len(numbers) < 2:
        return np.zeros(0, bool)
    lost = np.cumsum(~track.read(np.arange(numbers[0], numbers[-1] + 1)).follows())
    return np.diff(lost[numbers - numbers[0]]) == 0


def _one_rate(tracks: list[Track]) -> float:
    """The grids per second of all drives, for the layout has one rate; ValueError naming one that has another."""
    fps = _group_rate(tracks[0])
    for track in tracks[1:]:
        if len(track) > 1 and abs(_group_rate(track) / fps - 1) > SAME_RATE:
            raise ValueError(
                f"{track.path} has {_group_rate(track)} grids per second, {tracks[0].path} {fps}: a LeRobot dataset "
                "has one rate. Export them apart, or give --fps for timestamps that count rows"
            )
    return fps


def _group_rate(track: Track) -> float:
    """Grids per second: the usual step of the first stream's times, rounded to a thousandth."""
    if len(track) < 2:
        raise ValueError(f"{track.path} has a single grid, which tells no rate: give it with --fps")
    return round(1e9 / float(np.median(np.diff(track.times_ns))), 3)


def _features(names: list[str], facts: dict[str, Any]) -> dict[str, dict]:
    size = int(np.prod(facts["grid"]))
    kind = "float32" if facts["dtype"] == "float16" else "int32"
    features: dict[str, dict] = {
        f"observation.tokens.{name}": {"dtype": kind, "shape": [size], "names": None} for name in names
    }
    features |= {
        name: {"dtype": "int64", "shape": [1], "names": None} for name in ("capture_ns", "time_ns", "epoch", "keyframe")
    }
    features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    features |= {name: {"dtype": "int64", "shape": [1], "names": None} for name in OWN[1:]}
    return features


def _columns(rows: list[Grids], names: list[str]) -> dict[str, np.ndarray]:
    columns = {}
    for name, grids in zip(names, rows, strict=True):
        kind = np.float32 if grids.tokens.dtype == np.float16 else np.int32
        columns[f"observation.tokens.{name}"] = grids.tokens.reshape(len(grids.tokens), -1).astype(kind)
    first = rows[0]
    own = {"capture_ns": first.capture_ns, "time_ns": first.time_ns, "epoch": first.epoch}
    return columns | own | {"keyframe": first.keyframe.astype(np.int64)}


def _video_columns(out: Path, tracks: list[Track], fps: float, options: ExportOptions) -> list[VideoColumn]:
    if not options.video:
        return []
    from streamtok.data.files import matching_tokenizer

    tok = matching_tokenizer(tracks[0].path, tracks[0].meta, options.model)
    return [VideoColumn(out, track.stream, fps, tok) for track in tracks]


def _video_feature(track: Track, fps: float) -> dict[str, Any]:
    from streamtok.data.files import picture_size

    height, width = picture_size(track.meta)
    info = {"video.height": height, "video.width": width, "video.codec": "h264", "video.fps": fps, "has_audio": False}
    info |= {"video.pix_fmt": "yuv444p" if height % 2 or width % 2 else "yuv420p", "video.is_depth_map": False}
    return {"dtype": "video", "shape": [height, width, 3], "names": ["height", "width", "channels"], "info": info}
