"""Exports: other libraries read back exactly the tokens that went in."""

import json
from dataclasses import replace

import av
import numpy as np
import pytest

import streamtok
from streamtok.commands import export as command
from streamtok.model.decoding import GridDecoder
from streamtok.tokens.export import ExportOptions, export
from streamtok.tokens.grids import read_headers
from streamtok.tokens.tracks import open_tracks


def moved(groups, frames):
    """The same groups so many frames later."""
    step = 33_000_000 * frames
    return [
        replace(g, frame_ids=[i + frames for i in g.frame_ids], capture_ns=[t + step for t in g.capture_ns])
        for g in groups
    ]


@pytest.mark.parametrize("kind", ["tokens", "recording"])
def test_a_track_tells_its_gaps_and_where_decoding_starts(store, groups_of, kind):
    """It begins within an epoch; of the next one a group was lost; the last one goes on over frames that were lost."""
    first = groups_of([5, 9])
    last = [replace(g, epoch=2) for g in moved(groups_of([6]), first[-1].frame_ids[-1] + 1)]
    bridged = moved(last[3:], 2)
    groups = [*first[2:8], *first[9:], *last[:3], replace(bridged[0], dropped=2), *bridged[1:]]
    (track,) = open_tracks(store(kind, groups))
    assert np.flatnonzero(track.find_gaps()).tolist() == [0, 3, 6, 14]
    assert read_headers(track).find_keyframes().tolist() == [-1] * 3 + [3] * 3 + [-1] * 5 + [11] * 6


def test_webdataset_reads_the_shards(tmp_path, token_file, groups_of):
    webdataset = pytest.importorskip("webdataset")
    groups = groups_of([10, 7])
    counts = export(
        token_file(tmp_path / "a.safetensors", groups),
        tmp_path / "out",
        "webdataset",
        ExportOptions(window=4, shard_samples=2),
    )
    assert counts == {"samples": 5, "shards": 3}
    shards = sorted(map(str, (tmp_path / "out").glob("*.tar")))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode())
    got = np.concatenate([sample["tokens.npy"][sample["mask.npy"]] for sample in samples])
    np.testing.assert_array_equal(got, np.stack([group.tokens for group in groups]))
    assert samples[0]["json"]["stream"] == "front"
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["tokenizer"] == "ab" * 8


def test_parquet_holds_every_grid(tmp_path, recording, groups_of):
    parquet = pytest.importorskip("pyarrow.parquet")
    streams = {"front": groups_of([300, 5], "front"), "left": groups_of([4], "left", seed=1)}
    counts = export(recording(tmp_path / "a.mcap", streams), tmp_path / "out", "parquet")
    assert counts == {"rows": 309, "files": 2}
    for path in sorted((tmp_path / "out").iterdir()):
        table = parquet.read_table(path)
        groups = streams[table["stream"][0].as_py()]
        tokens = np.array(table["tokens"].to_pylist()).reshape(-1, 3, 4)
        np.testing.assert_array_equal(tokens, np.stack([group.tokens for group in groups]))
        assert table["capture_ns"].to_pylist() == [group.capture_ns[-1] for group in groups]
        assert table["keyframe"].to_pylist() == [group.keyframe for group in groups]
        assert json.loads(table.schema.metadata[b"streamtok"])["grid"] == [3, 4]


def test_lerobot_layout(tmp_path, recording, groups_of):
    parquet = pytest.importorskip("pyarrow.parquet")
    streams = {"front": groups_of([20, 10], "front"), "left": groups_of([30], "left", seed=1)}
    counts = export(recording(tmp_path / "a.mcap", streams), tmp_path / "out", "lerobot", ExportOptions(task="go"))
    meta = tmp_path / "out" / "meta"
    info = json.loads((meta / "info.json").read_text())
    rows = parquet.read_table(tmp_path / "out" / info["data_path"].format(chunk_index=0, file_index=0)).to_pydict()
    episodes = parquet.read_table(meta / "episodes" / "chunk-000" / "file-000.parquet").to_pylist()
    assert counts == {"rows": info["total_frames"], "episodes": info["total_episodes"]}
    assert len(rows["index"]) == info["total_frames"] == sum(episode["length"] for episode in episodes)
    assert rows["index"] == list(range(len(rows["index"])))
    for episode in episodes:
        at = slice(episode["dataset_from_index"], episode["dataset_to_index"])
        assert rows["frame_index"][at] == list(range(episode["length"]))
        assert set(rows["episode_index"][at]) == {episode["episode_index"]}
        assert episode["tasks"] == ["go"]
        np.testing.assert_allclose(rows["timestamp"][at], np.arange(episode["length"]) / info["fps"], rtol=1e-6)
    by_time = {group.capture_ns[-1]: group for group in streams["front"]}
    for time, tokens in zip(rows["capture_ns"], rows["observation.tokens.front"], strict=True):
        np.testing.assert_array_equal(np.array(tokens).reshape(3, 4), by_time[time].tokens)
    assert info["codebase_version"] == "v3.0"
    assert info["features"]["observation.tokens.left"] == {"dtype": "int32", "shape": [12], "names": None}
    stats = json.loads((meta / "stats.json").read_text())["observation.tokens.front"]
    np.testing.assert_allclose(stats["mean"], np.mean(rows["observation.tokens.front"], 0))
    np.testing.assert_allclose(stats["std"], np.std(rows["observation.tokens.front"], 0))
    assert stats["count"] == [len(rows["index"])]


def test_lerobot_episodes_stop_where_a_camera_is_missing(tmp_path, recording, groups_of):
    pytest.importorskip("pyarrow")
    streams = {"front": groups_of([30], "front"), "left": groups_of([30], "left", seed=1)}
    del streams["left"][12]
    counts = export(recording(tmp_path / "a.mcap", streams), tmp_path / "out", "lerobot")
    assert counts == {"rows": 29, "episodes": 2}


def test_lerobot_cameras_that_started_at_different_times(tmp_path, recording, groups_of):
    """The second camera is nearly a whole step late: each time is matched with the grid that is nearest to it."""
    pytest.importorskip("pyarrow")
    streams = {"front": groups_of([24], "front"), "left": groups_of([24], "left", seed=1, first_ns=103_000_000)}
    counts = export(recording(tmp_path / "a.mcap", streams), tmp_path / "out", "lerobot")
    assert counts == {"rows": 23, "episodes": 1}


def test_command_line(tmp_path, token_file, groups_of, capsys):
    path = str(token_file(tmp_path / "a.safetensors", groups_of([4])))
    out = str(tmp_path / "out")
    assert command.main([path, "--to", "webdataset", "--out", out, "--window", "2", "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"samples": 2, "shards": 1}
    assert command.main([path, "--to", "webdataset", "--out", out, "--quiet"]) == 1
    assert "give a new folder" in capsys.readouterr().err
    killed = tmp_path / "killed"
    (killed / ".unfinished-x").mkdir(parents=True)
    assert command.main([path, "--to", "webdataset", "--out", str(killed), "--quiet"]) == 1
    assert "holds .unfinished-x" in capsys.readouterr().err
    assert command.main([str(tmp_path / "absent"), "--to", "parquet", "--out", str(tmp_path / "new")]) == 1
    assert "absent" in capsys.readouterr().err


def test_lerobot_takes_every_file_of_a_folder_and_says_where_rows_are_from(tmp_path, token_file, groups_of):
    """Several encoded videos in one folder have the same stream: each is a drive, none replaces another."""
    pytest.importorskip("pyarrow")
    (tmp_path / "in").mkdir()
    for seed, name in enumerate("ab"):
        token_file(tmp_path / "in" / f"{name}.safetensors", groups_of([5, 4], seed=seed))
    assert export(tmp_path / "in", tmp_path / "out", "lerobot") == {"rows": 18, "episodes": 4}
    facts = json.loads((tmp_path / "out" / "meta" / "streamtok.json").read_text())
    assert facts["files"] == ["in/a.safetensors"] * 2 + ["in/b.safetensors"] * 2
    assert (facts["tokenizer"], facts["grid"], facts["levels"]) == ("ab" * 8, [3, 4], [8, 8, 8, 5, 5, 5])


def test_lerobot_has_one_rate(tmp_path, token_file, groups_of):
    pytest.importorskip("pyarrow")
    (tmp_path / "in").mkdir()
    token_file(tmp_path / "in" / "a.safetensors", groups_of([9]))
    slow = [replace(g, capture_ns=[3 * time for time in g.capture_ns]) for g in groups_of([9])]
    token_file(tmp_path / "in" / "b.safetensors", slow)
    with pytest.raises(ValueError, match=r"b\.safetensors has 2\.525 grids per second, .*a\.safetensors 7\.576"):
        export(tmp_path / "in", tmp_path / "out", "lerobot")
    assert export(tmp_path / "in", tmp_path / "out", "lerobot", ExportOptions(fps=5))["episodes"] == 2


def test_rows_and_samples_say_their_drive(tmp_path, token_file, groups_of):
    """Tokenized drives are folders with files of the same names."""
    parquet, webdataset = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("webdataset")
    for name in ("one", "two"):
        (tmp_path / "in" / name).mkdir(parents=True)
        token_file(tmp_path / "in" / name / "cam0.safetensors", groups_of([4]))
    export(tmp_path / "in", tmp_path / "tables", "parquet")
    tables = [parquet.read_table(path) for path in sorted((tmp_path / "tables").iterdir())]
    want = ["one/cam0.safetensors", "two/cam0.safetensors"]
    assert [table["file"][0].as_py() for table in tables] == want
    assert json.loads(tables[0].schema.metadata[b"streamtok"])["levels"] == [8, 8, 8, 5, 5, 5]
    export(tmp_path / "in", tmp_path / "shards", "webdataset", ExportOptions(window=4))
    samples = webdataset.WebDataset(str(tmp_path / "shards" / "tokens-000000.tar"), shardshuffle=False).decode()
    assert [sample["json"]["file"] for sample in samples] == want
    assert json.loads((tmp_path / "shards" / "dataset.json").read_text())["levels"] == [8, 8, 8, 5, 5, 5]


def test_lerobot_cameras_of_other_rates_and_phases_make_one_episode(tmp_path, token_file, groups_of):
    """A camera at another rate repeats or skips grids, and resets at other times: nothing is lost by that."""
    pytest.importorskip("pyarrow")
    (tmp_path / "in").mkdir()
    front = groups_of([300, -300], "front")
    left = [replace(g, capture_ns=[round(0.6 * time) for time in g.capture_ns]) for g in groups_of([500, -499], "left")]
    token_file(tmp_path / "in" / "front.safetensors", front)
    token_file(tmp_path / "in" / "left.safetensors", left)
    counts = export(tmp_path / "in", tmp_path / "out", "lerobot")
    assert counts["episodes"] == 1
    assert counts["rows"] > 590


@pytest.fixture
def model():
    """A tokenizer, and how its token files name it."""
    tok = streamtok.load("nano")
    return tok, {"tokenizer": tok.fingerprint, "model": "nano"}


def pictures_of(out, stream):
    """The frames of each episode of the exported video, by LeRobot's own rule: between its two timestamps."""
    parquet = pytest.importorskip("pyarrow.parquet")
    info = json.loads((out / "meta" / "info.json").read_text())
    key = f"observation.images.{stream}"
    with av.open(out / info["video_path"].format(video_key=key, chunk_index=0, file_index=0)) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    rows = parquet.read_table(out / "meta" / "episodes" / "chunk-000" / "file-000.parquet").to_pylist()
    spans = [[round(row[f"videos/{key}/{end}_timestamp"] * info["fps"]) for end in ("from", "to")] for row in rows]
    assert [stop - start for start, stop in spans] == [row["length"] for row in rows]
    assert spans[-1][1] == len(frames)
    return [frames[start:stop] for start, stop in spans]


def decoded(tok, groups):
    decoder = GridDecoder(tok)
    return [decoder.step(group.tokens, group.keyframe)[-1] for group in groups]


def apart(a, b):
    """Mean difference of brightness in blocks of 4x4: what H.264 keeps of pictures that are noise."""
    height, width, _ = a.shape
    blocks = [(each @ np.array([0.299, 0.587, 0.114])).reshape(height // 4, 4, width // 4, 4) for each in (a, b)]
    return np.abs(blocks[0].mean((1, 3)) - blocks[1].mean((1, 3))).mean()


def assert_same_pictures(got, want):
    """Each picture is by far the nearest to the one that it should be."""
    assert len(got) == len(want)
    table = np.array([[apart(a, b) for b in want] for a in got])
    assert table.diagonal().max() < 0.5 * table[~np.eye(len(want), dtype=bool)].min()


def test_lerobot_video_begins_where_it_can_be_decoded(tmp_path, token_file, groups_of, model, capsys):
    """A file that begins within an epoch, and lost a group of another: what is missing there is left out and told."""
    tok, facts = model
    groups = groups_of([5, 9, 4])
    path = token_file(tmp_path / "a.safetensors", [*groups[2:8], *groups[9:]], **facts)
    given = [str(path), "--to", "lerobot", "--video", "--quiet"]
    assert command.main([*given, "--out", str(tmp_path / "out")]) == 0
    assert "7 rows, 2 episodes, 8 undecodable" in capsys.readouterr().out
    first, second = pictures_of(tmp_path / "out", "front")
    assert_same_pictures(first, decoded(tok, groups[5:8]))
    assert_same_pictures(second, decoded(tok, groups[14:]))
    assert export(path, tmp_path / "tokens", "lerobot") == {
        "rows": 15,
        "episodes": 4,
    }  # without pictures nothing is lost
    token_file(path, groups[2:5], **facts)
    assert command.main([*given, "--out", str(tmp_path / "none")]) == 1
    assert "at 3 times all of ['front'] have a grid, and none of them can be decoded" in capsys.readouterr().err


def test_lerobot_video_of_a_camera_that_waits_for_another_keeps_its_context(tmp_path, token_file, groups_of, model):
    """An episode that begins within an epoch of a camera shows what came before it: it is decoded and left out."""
    tok, facts = model
    front, left = groups_of([12], "front"), groups_of([6, -6], "left", seed=1)
    left = [*left[:6], *moved(left[6:], 3)]
    (tmp_path / "in").mkdir()
    token_file(tmp_path / "in" / "front.safetensors", front, **facts)
    token_file(tmp_path / "in" / "left.safetensors", [*left[:3], *left[4:]], **facts)
    counts = export(tmp_path / "in", tmp_path / "out", "lerobot", ExportOptions(video=True))
    assert counts == {"rows": 9, "episodes": 2, "undecodable": 2}
    first, second = pictures_of(tmp_path / "out", "front")
    assert_same_pictures([*first, *second], [*decoded(tok, front)[:3], *decoded(tok, front)[6:]])
    without = decoded(tok, [*front[:3], *front[6:]])[3]
    assert apart(second[0], decoded(tok, front)[6]) < 0.5 * apart(second[0], without)
    first, second = pictures_of(tmp_path / "out", "left")
    assert_same_pictures([*first, *second], [*decoded(tok, left)[:3], *decoded(tok, left[6:])])


def test_lerobot_video_of_cameras_at_other_rates(tmp_path, token_file, groups_of, model):
    """Grids that are skipped to keep time are decoded too, and make no new episodes."""
    tok, facts = model
    front = groups_of([8], "front")
    left = [
        replace(g, capture_ns=[round(0.5 * time) for time in g.capture_ns]) for g in groups_of([15], "left", seed=1)
    ]
    (tmp_path / "in").mkdir()
    token_file(tmp_path / "in" / "front.safetensors", front, **facts)
    token_file(tmp_path / "in" / "left.safetensors", left, **facts)
    counts = export(tmp_path / "in", tmp_path / "out", "lerobot", ExportOptions(video=True))
    assert counts == {"rows": 8, "episodes": 1, "undecodable": 0}
    (pictures,) = pictures_of(tmp_path / "out", "left")
    assert_same_pictures(pictures, decoded(tok, left)[::2])
