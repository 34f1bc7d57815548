"""Token files: what goes in comes out, in constant memory, and damage is named."""

import contextlib
import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from streamtok.engine.loading import load
from streamtok.tokens.files import encode_file
from streamtok.tokens.tokenfile import TokenFile, is_token_file
from streamtok.tokens.tokenfile_writer import TokenFileWriter
from streamtok.tokens.tracks import FileTrack
from tests.kit.tokens import META, random_grids
from tests.kit.tokens import group_of as group
from tests.kit.tokens import write_grids as write


@settings(max_examples=20)
@given(
    count=st.integers(1, 12),
    grid=st.sampled_from([((3, 5), np.uint16), ((2, 2), np.uint32), ((16, 2, 3), np.float16), ((2, 3, 4), np.uint16)]),
    seed=st.integers(0, 99),
)
def test_groups_come_back_as_written(tmp_path_factory, count, grid, seed):
    path = tmp_path_factory.mktemp("t") / "a.safetensors"
    groups = write(path, random_grids(count, *grid, seed))
    file = TokenFile(path)
    assert len(file) == count
    for want, got in zip(groups, file, strict=True):
        np.testing.assert_array_equal(want.tokens, got.tokens)
        assert got.tokens.dtype == grid[1]
        same = ("stream", "keyframe", "epoch", "frame_ids", "capture_ns", "dropped", "repeated", "image_size")
        assert all(getattr(want, name) == getattr(got, name) for name in same)


def test_the_program_on_the_page_reads_codes_without_streamtok(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "fleets.md").read_text()
    program = re.search(r"## Tokens in other tools\n.*?```python\n(.*?)```", page, re.DOTALL)[1]
    encode_file("synthetic:32x48@30?frames=9", tmp_path / "tokens.safetensors", "nano")
    found: dict = {}
    exec(program.replace("tokens.safetensors", str(tmp_path / "tokens.safetensors")), found)
    assert "streamtok" not in program
    wanted = load("nano").codes(torch.from_numpy(found["tokens"])[None])[0].transpose(0, 1)
    np.testing.assert_allclose(found["codes"], wanted, atol=1e-6)
    with safe_open(tmp_path / "tokens.safetensors", "np") as file:
        assert all(f"`{name}`" in page for name in file.keys())  # noqa: SIM118


def test_the_safetensors_library_reads_it(tmp_path):
    path = tmp_path / "a.safetensors"
    groups = write(path, random_grids(5))
    with safe_open(str(path), "np") as file:
        assert file.metadata()["tokenizer"] == META["tokenizer"]
        np.testing.assert_array_equal(file.get_slice("tokens")[2:4], np.stack([g.tokens for g in groups[2:4]]))
        np.testing.assert_array_equal(file.get_tensor("frame_start"), [0, 1, 5, 9, 13, 17])


def test_same_groups_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, random_grids(3))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_error_leaves_no_file(tmp_path):
    path = tmp_path / "a.safetensors"
    grids = [*random_grids(1), *random_grids(1, (2, 2))]
    with pytest.raises(ValueError, match="does not match"):
        write(path, grids)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_no_token_file_takes_the_place_of_a_pipe_or_folder(make, tmp_path):
    """Nor of a device: as root, -o /dev/null would replace it."""
    path = tmp_path / "a.safetensors"
    make(path)
    mode = path.stat().st_mode
    with pytest.raises(FileExistsError, match="no file may replace"):
        write(path, random_grids(3))
    assert path.stat().st_mode == mode
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_written_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no frame"), TokenFileWriter(tmp_path / "a", META):
        pass
    with pytest.raises(FileNotFoundError, match="create it first"):
        TokenFileWriter(tmp_path / "no" / "a", META)
    with pytest.raises(TypeError, match="int64"), TokenFileWriter(tmp_path / "a", META) as writer:
        writer.write(group(0, np.zeros((2, 2), np.int64)))
    for shape in ((0, 3), (4,)):
        with pytest.raises(ValueError, match="shape"), TokenFileWriter(tmp_path / "a", META) as writer:
            writer.write(group(0, np.zeros(shape, np.uint16)))


@pytest.mark.parametrize("keep", [0, 4, 100, 0.7, 0.99])
def test_a_cut_file_says_so(tmp_path, keep):
    path = tmp_path / "a.safetensors"
    write(path, random_grids(20))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match="cut off"):
        TokenFile(path)


ODD = st.sampled_from([None, True, 0, -1, 2**63, 1e308, float("nan"), "", "x", "../x", [], {}, [1] * 5, {"a": 1}])


def change(data, value):
    """A value of JSON with one thing in it that is something else, also in text that holds JSON."""
    if isinstance(value, dict) and value and data.draw(st.booleans()):
        name = data.draw(st.sampled_from(sorted(value)))
        return value | {name: change(data, value[name])}
    if isinstance(value, list) and value and data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(value) - 1))
        return [*value[:place], change(data, value[place]), *value[place + 1 :]]
    if isinstance(value, str) and data.draw(st.booleans()):
        with contextlib.suppress(ValueError):
            return json.dumps(change(data, json.loads(value)))
    return data.draw(ODD)


@settings(max_examples=150)
@given(data=st.data())
def test_a_file_with_a_wrong_header_is_refused_by_its_name_or_read(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("t") / "a.safetensors"
    write(path, random_grids(3))
    whole = path.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    header = change(data, json.loads(whole[8:end]))
    if data.draw(st.booleans()) and isinstance(header, dict) and isinstance(header.get("__metadata__"), dict):
        header["__metadata__"].pop("crc32", None)  # whoever changes a file may leave out what would tell
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + whole[end:])
    said = ""
    try:
        file = TokenFile(path)
        file.check()
        assert len([*file]) == 3
    except ValueError as error:
        said = str(error)
    assert not said or str(path) in said
    assert is_token_file(path) or said


def test_groups_that_do_not_share_out_the_frames_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    write(path, random_grids(3))
    whole, starts = path.read_bytes(), TokenFile(path).frame_start
    far = np.array(starts)
    far[1] = 2**60
    header = whole.replace(b'"crc32"', b'"crc33"')
    path.write_bytes(header.replace(starts.tobytes(), far.tobytes()))
    with pytest.raises(ValueError, match="share out"):
        TokenFile(path).check()
    with pytest.raises(ValueError, match="share out"):
        FileTrack(path)


def test_other_files_are_told_apart(tmp_path):
    path = tmp_path / "a.safetensors"
    write(path, random_grids(2))
    assert is_token_file(path)
    assert not is_token_file(tmp_path / "absent")
    assert not is_token_file(Path(__file__))


def test_pickling_carries_no_tokens(tmp_path):
    path = tmp_path / "a.safetensors"
    write(path, random_grids(400))
    file = TokenFile(path)
    packed = pickle.dumps(file)
    assert len(packed) < path.stat().st_size / 10
    np.testing.assert_array_equal(pickle.loads(packed).tokens[399], file.tokens[399])


def test_no_group_past_the_end(tmp_path):
    write(tmp_path / "a", random_grids(2))
    with pytest.raises(IndexError, match="2 groups"):
        TokenFile(tmp_path / "a").group(2)
