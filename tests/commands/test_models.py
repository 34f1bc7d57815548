"""`streamtok models --prepare`: what a node's first start would measure, before it and on a clip of one's own."""

import json

import pytest

import streamtok
from streamtok.commands import models
from streamtok.engine.optimized import describe_engine
from streamtok.io.picture_writer import open_pictures
from streamtok.weights.golden import reference_clip

SIZE = (64, 96)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STREAMTOK_CACHE", str(tmp_path / "cache"))


def clip(path, frames):
    pictures = open_pictures(path, SIZE, 30.0)
    for index, image in enumerate(reference_clip(frames, *SIZE)[0].permute(1, 2, 3, 0).numpy()):
        pictures.write(image, round(index / 30 * 1e9))
    pictures.close()
    return str(path)


def test_a_folder_is_prepared_on_a_clip_whatever_is_stored(tmp_path, capsys):
    folder = tmp_path / "mine"
    streamtok.save(streamtok.load("nano"), folder)
    prepare = [str(folder), "--size", "64x96", "--prepare"]
    assert models.main(prepare) == 0
    on_scene = capsys.readouterr().out
    assert models.main([*prepare, "--clip", clip(tmp_path / "mine.mp4", 40)]) == 0
    on_clip = capsys.readouterr().out
    assert "100.00 % of tokens equal to float32's" in on_clip
    assert "prepared model=" in on_clip
    assert on_clip != on_scene
    assert models.main(prepare) == 0
    assert capsys.readouterr().out == on_clip
    (stored,) = (tmp_path / "cache/engine").glob("*-cpu-64x96.json")
    fast = streamtok.load(folder, engine="auto", size=SIZE, device="cpu")
    assert describe_engine(fast).to_dict() == json.loads(stored.read_text())


def test_mistakes_are_told(tmp_path, capsys):
    assert models.main(["nano", "--size", "64x96", "--prepare", "--clip", clip(tmp_path / "short.mp4", 9)]) == 1
    assert "has 9 frames, 29 are needed" in capsys.readouterr().err
    assert models.main(["nano", "--clip", "x.mp4"]) == 2
    assert "how to --prepare" in capsys.readouterr().err
    assert models.main([str(tmp_path / "absent"), "--size", "64x96", "--prepare"]) == 1
    assert "no preset and no checkpoint folder" in capsys.readouterr().err
