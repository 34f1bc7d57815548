"""The loaders that teams have read what `streamtok export` writes: LeRobot's own class, Hugging Face datasets."""

import json
import os
import subprocess

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


LEROBOT = """
import json, sys
from lerobot.datasets.lerobot_dataset import LeRobotDataset

data = LeRobotDataset("me/drive", root=sys.argv[1], video_backend="pyav")
rows = [(int(row["capture_ns"]), row["observation.tokens.front"].tolist()) for row in (data[0], data[len(data) - 1])]
print(json.dumps({"rows": len(data), "episodes": data.num_episodes, "first_and_last": rows}))
"""


@pytest.mark.slow
def test_lerobot_s_own_class_opens_an_export(tmp_path, recording, groups_of):
    """LEROBOT_PYTHON names a Python with `pip install 'lerobot[dataset]'`, which needs 3.12."""
    python = os.environ.get("LEROBOT_PYTHON")
    if python is None:
        pytest.skip("LEROBOT_PYTHON names no Python with lerobot")
    streams = {"front": groups_of([20, 10], "front")}
    counts = export(recording(tmp_path / "a.mcap", streams), tmp_path / "out", "lerobot", ExportOptions(task="go"))
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [python, "-c", LEROBOT, str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["rows"], found["episodes"]) == (counts["rows"], counts["episodes"])
    by_time = {group.capture_ns[-1]: group.tokens for group in streams["front"]}
    for capture_ns, tokens in found["first_and_last"]:
        np.testing.assert_array_equal(np.array(tokens).reshape(3, 4), by_time[capture_ns])
