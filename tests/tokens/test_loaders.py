"""The loaders that teams have read what `streamtok export` writes: LeRobot's own class, Hugging Face datasets."""

import numpy as np
import pytest

from streamtok.tokens.export import ExportOptions, export


@pytest.mark.slow
def test_hugging_face_datasets_read_parquet_and_webdataset(tmp_path, recording, token_file, groups_of):
    datasets = pytest.importorskip("datasets", reason="needs: pip install datasets")
    groups = groups_of([20, 10], "front")
    export(recording(tmp_path / "a.mcap", {"front": groups}), tmp_path / "parquet", "parquet", ExportOptions())
    files = sorted(map(str, (tmp_path / "parquet").rglob("*.parquet")))
    options = {"split": "train", "cache_dir": str(tmp_path / "cache")}
    rows = datasets.load_dataset("parquet", data_files=files, **options)
    grids = [np.array(row["tokens"]).reshape(3, 4) for row in rows]
    np.testing.assert_array_equal(grids, [group.tokens for group in groups])
    source = token_file(tmp_path / "a.safetensors", groups)
    counts = export(source, tmp_path / "shards", "webdataset", ExportOptions(window=4))
    shards = sorted(map(str, (tmp_path / "shards").glob("*.tar")))
    samples = datasets.load_dataset("webdataset", data_files=shards, streaming=True, **options)
    assert len(list(samples)) == counts["samples"]


@pytest.mark.slow
def test_lerobot_s_own_class_opens_an_export(tmp_path, recording, groups_of):
    lerobot = pytest.importorskip("lerobot.datasets", reason="needs: pip install 'lerobot[dataset]' (Python 3.12)")
    streams = {"front": groups_of([20, 10], "front")}
    counts = export(recording(tmp_path / "a.mcap", streams), tmp_path / "out", "lerobot", ExportOptions(task="go"))
    opened = lerobot.LeRobotDataset("me/drive", root=tmp_path / "out", video_backend="pyav")
    assert (len(opened), opened.num_episodes) == (counts["rows"], counts["episodes"])
    by_time = {group.capture_ns[-1]: group.tokens for group in streams["front"]}
    for row in (opened[0], opened[len(opened) - 1]):
        expected = by_time[int(row["capture_ns"])]
        np.testing.assert_array_equal(np.array(row["observation.tokens.front"]).reshape(3, 4), expected)
