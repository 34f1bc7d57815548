"""Writes the files of a LeRobot v3 dataset: rows in Parquet, pictures in MP4, and descriptions under meta/."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import parquet

from streamtok.io.picture_writer import VideoPictures
from streamtok.names import check_stream_name

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
PICTURES = "observation.images."  # of one camera
DATA_MB, VIDEO_MB, CHUNK = 100, 200, 1000
OWN = ("timestamp", "frame_index", "episode_index", "index", "task_index")


class Statistics:
    """Running minimum, maximum, mean and standard deviation of each of a feature's `size` elements."""

    def __init__(self, size: int) -> None:
        self.count = 0
        self.low, self.high = np.full(size, np.inf), np.full(size, -np.inf)
        self.total, self.squares = np.zeros(size), np.zeros(size)

    def add(self, values: np.ndarray) -> None:
        """Take in n values of the feature, (n, ...)."""
        values = values.reshape(len(values), -1).astype(np.float64)
        self.low, self.high = np.minimum(self.low, values.min(0)), np.maximum(self.high, values.max(0))
        self.count += len(values)
        self.total += values.sum(0)
        self.squares += (values**2).sum(0)

    def to_dict(self) -> dict[str, list]:
        """The statistics as in LeRobot's stats.json."""
        mean = self.total / self.count
        deviation = np.sqrt(np.maximum(0, self.squares / self.count - mean**2))
        values = {"min": self.low, "max": self.high, "mean": mean, "std": deviation}
        return {name: value.tolist() for name, value in values.items()} | {"count": [self.count]}


class DatasetWriter:
    """Writes rows into episodes; `features` are LeRobot's descriptions of the columns, `fps` the rows per second."""

    def __init__(self, out: Path, fps: float, features: dict[str, dict], task: str) -> None:
        self.out, self.fps, self.features, self.task = out, fps, features, task
        self.rows = 0
        self.episodes: list[dict[str, Any]] = []  # the rows of LeRobot's table of episodes
        self._videos = {key: VideoFiles(out, key, fps) for key, kind in features.items() if kind["dtype"] == "video"}
        sizes = {name: int(np.prod(kind["shape"])) for name, kind in features.items() if name not in self._videos}
        self._statistics = {name: Statistics(size) for name, size in sizes.items()}
        self._schema = _make_schema(features)
        self._file = 0
        self._writer: parquet.ParquetWriter | None = None

    def start_episode(self) -> None:
        """Begin an episode, in new files where the last ones are full: DATA_MB of rows, VIDEO_MB of pictures."""
        path = self._path()
        if self._writer is not None and path.stat().st_size > DATA_MB << 20:
            self._writer.close()
            self._file, self._writer = self._file + 1, None
        chunk, file = divmod(self._file, CHUNK)
        row: dict[str, Any] = {"episode_index": len(self.episodes), "tasks": [self.task], "length": 0}
        row |= {"data/chunk_index": chunk, "data/file_index": file}
        row |= {"dataset_from_index": self.rows, "dataset_to_index": self.rows}
        row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        for key, video in self._videos.items():
            row |= {f"videos/{key}/{name}": value for name, value in video.start_episode().items()}
        self.episodes.append(row)

    def add(self, columns: dict[str, np.ndarray], pictures: Mapping[str, Iterable[np.ndarray]]) -> None:
        """Append n rows to the current episode.

        `columns` (n, ...) and n `pictures`, uint8 RGB (h, w, 3), are those of each feature that is not LeRobot's own.
        """
        episode = self.episodes[-1]
        count = len(next(iter(columns.values())))
        frame = np.arange(episode["length"], episode["length"] + count)
        columns = columns | {
            "timestamp": (frame / self.fps).astype(np.float32),
            "frame_index": frame,
            "episode_index": np.full(count, episode["episode_index"]),
            "index": np.arange(self.rows, self.rows + count),
            "task_index": np.zeros(count, np.int64),
        }
        for name, statistics in self._statistics.items():
            statistics.add(columns[name])
        if self._writer is None:
            self._path().parent.mkdir(parents=True, exist_ok=True)
            self._writer = parquet.ParquetWriter(self._path(), self._schema)
        arrays = [_to_arrow(columns[name], self._schema.field(name).type) for name in self._schema.names]
        self._writer.write_table(pyarrow.table(arrays, schema=self._schema))
        for key, video in self._videos.items():
            episode[f"videos/{key}/to_timestamp"] = video.add(pictures[key])
        self.rows += count
        episode |= {"length": episode["length"] + count, "dataset_to_index": self.rows}

    def close(self) -> None:
        """Finish the rows and videos, and write everything under meta/."""
        if self._writer is not None:
            self._writer.close()
        for video in self._videos.values():
            video.close()
        meta = self.out / "meta"
        meta.mkdir(parents=True, exist_ok=True)
        write_json(meta / "info.json", self._info())
        write_json(meta / "stats.json", {name: each.to_dict() for name, each in self._statistics.items()})
        self._write_tasks(meta / "tasks.parquet")
        episodes = meta / "episodes" / "chunk-000"
        episodes.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pyarrow.Table.from_pylist(self.episodes), episodes / "file-000.parquet")

    def _path(self) -> Path:
        return self.out / _format_path(DATA_PATH, self._file)

    def _info(self) -> dict[str, Any]:
        return {
            "codebase_version": "v3.0",
            "robot_type": None,
            "total_episodes": len(self.episodes),
            "total_frames": self.rows,
            "total_tasks": 1,
            "chunks_size": CHUNK,
            "data_files_size_in_mb": DATA_MB,
            "video_files_size_in_mb": VIDEO_MB,
            "fps": int(self.fps) if self.fps == int(self.fps) else self.fps,
            "splits": {"train": f"0:{len(self.episodes)}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if self._videos else None,
            "features": self.features,
        }

    def _write_tasks(self, path: Path) -> None:
        """Write the tasks. LeRobot reads them with pandas, by its index, so the schema declares the index column."""
        index = "__index_level_0__"
        described = [("task_index", "task_index", "int64", "int64"), (None, index, "unicode", "object")]
        pandas = {
            "index_columns": [index],
            "column_indexes": [],
            "columns": [
                {"name": name, "field_name": stored, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
                for name, stored, kind, numpy in described
            ],
            "pandas_version": "2.0.0",
        }
        columns = {"task_index": pyarrow.array([0], pyarrow.int64()), index: pyarrow.array([self.task])}
        parquet.write_table(pyarrow.table(columns).replace_schema_metadata({"pandas": json.dumps(pandas)}), path)


class VideoFiles:
    """Writes the pictures of one camera, the feature `key`, as videos."""

    def __init__(self, out: Path, key: str, fps: float) -> None:
        check_stream_name(key.removeprefix(PICTURES))
        self._out, self._key, self._fps = out, key, fps
        self._file = self._count = 0
        self._pictures: VideoPictures | None = None

    def start_episode(self) -> dict[str, Any]:
        """Where an episode starts, as LeRobot describes it, in a new file if the last one has reached VIDEO_MB."""
        # After a short episode there may be no file yet, for it is opened with the encoder's first packet.
        partial = self._pictures and self._pictures.partial
        if self._pictures and partial and partial.exists() and partial.stat().st_size > VIDEO_MB << 20:
            self._pictures.close()
            self._pictures, self._file, self._count = None, self._file + 1, 0
        chunk, file = divmod(self._file, CHUNK)
        return {"chunk_index": chunk, "file_index": file, "from_timestamp": self._count / self._fps}

    def add(self, pictures: Iterable[np.ndarray]) -> float:
        """Write the next pictures, uint8 RGB (h, w, 3); returns the time after the last one in the file, s."""
        for picture in pictures:
            if self._pictures is None:
                path = self._out / _format_path(VIDEO_PATH, self._file, video_key=self._key)
                path.parent.mkdir(parents=True, exist_ok=True)
                self._pictures = VideoPictures(path, picture.shape[:2], self._fps)
            self._pictures.write(picture, round(self._count / self._fps * 1e9))
            self._count += 1
        return self._count / self._fps

    def close(self) -> None:
        """Finish the last video."""
        if self._pictures is not None:
            self._pictures.close()


def _format_path(pattern: str, file: int, **names: str) -> str:
    return pattern.format(chunk_index=file // CHUNK, file_index=file % CHUNK, **names)


def _make_schema(features: dict[str, dict]) -> pyarrow.Schema:
    columns = []
    for name, kind in features.items():
        if kind["dtype"] != "video":
            one, size = getattr(pyarrow, kind["dtype"])(), int(np.prod(kind["shape"]))
            columns.append((name, one if name in OWN or size == 1 else pyarrow.list_(one, size)))
    return pyarrow.schema(columns)


def _to_arrow(values: np.ndarray, kind: pyarrow.DataType) -> pyarrow.Array:
    flat = values.reshape(-1)
    if pyarrow.types.is_fixed_size_list(kind):
        return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(flat, kind.value_type), kind.list_size)
    return pyarrow.array(flat, kind)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON in LeRobot's style."""
    path.write_text(json.dumps(value, indent=4) + "\n")
