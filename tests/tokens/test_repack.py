"""Files with coded tokens: smaller, read by all that reads plain ones, and plain again bit for bit."""

import json

import numpy as np
import pytest
from safetensors import safe_open

from streamtok.coding.coder import FILE, CodingError, load_coder, save_coder
from streamtok.commands.repack import main
from streamtok.data import TokenDataset, TokenFile
from streamtok.recording.reader import open_recording
from streamtok.tokens.files import encode_file
from streamtok.tokens.inspecting import inspect
from streamtok.tokens.tracks import open_tracks
from tests.kit.coders import make_coder
from tests.kit.tokens import make_groups, write_recording, write_token_file

GROUPS = make_groups([5, 4, -6])


@pytest.fixture
def coder_folder(tmp_path):
    """A coder of the tokenizer that the kit's files name."""
    folder = tmp_path / "coder"
    folder.mkdir()
    save_coder(make_coder(tokenizer="ab" * 8), folder)
    return folder


@pytest.mark.parametrize("compression", ["coded", "independent"])
def test_a_token_file_is_coded_read_anywhere_and_plain_again(tmp_path, coder_folder, compression, capsys):
    plain, coded, back = (tmp_path / name / "drive.safetensors" for name in ("plain", "coded", "back"))
    for path in (plain, coded, back):
        path.parent.mkdir()
    write_token_file(plain, GROUPS, grid=GROUPS[0].tokens.shape)  # amid its facts, where `encode` has it
    arguments = ["--compression", compression, "--coder", str(coder_folder), "--json"]
    assert main([str(plain), "-o", str(coded), *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == coded.stat().st_size
    assert load_coder(coded.parent).fingerprint == load_coder(coder_folder).fingerprint
    file = TokenFile(coded)
    file.check()
    for index in (11, 2, 14, 0, 7):
        assert np.array_equal(file.group(index).tokens, GROUPS[index].tokens)
    assert np.array_equal(file.tokens[3:9], np.stack([group.tokens for group in GROUPS[3:9]]))
    windows = [list(TokenDataset(path, window=3)) for path in (plain, coded)]
    assert len(windows[0]) == len(windows[1]) > 0
    assert all(np.array_equal(a["tokens"], b["tokens"]) for a, b in zip(*windows, strict=True))
    assert inspect(coded).report["streams"] == inspect(plain).report["streams"]
    assert main([str(coded), "-o", str(back), "--compression", "none"]) == 0
    assert back.read_bytes() == plain.read_bytes()
    with safe_open(coded, "numpy") as stored:
        assert set(stored.keys()) >= {"coded", "coded_start", "grid_crc32"}


def test_damage_to_coded_tokens_names_the_file_and_the_group(tmp_path, coder_folder):
    plain, coded = tmp_path / "plain.safetensors", tmp_path / "coded.safetensors"
    write_token_file(plain, GROUPS, grid=GROUPS[0].tokens.shape)
    assert main([str(plain), "-o", str(coded), "--compression", "independent", "--coder", str(coder_folder)]) == 0
    with safe_open(coded, "numpy") as stored:
        first, last = stored.get_tensor("coded_start")[2:4]
        payload = stored.get_tensor("coded")[first:last].tobytes()
    content = coded.read_bytes()
    assert content.count(payload) == 1
    coded.write_bytes(content.replace(payload, bytes(byte ^ 255 for byte in payload)))
    tokens = TokenFile(coded).tokens
    assert np.array_equal(tokens[1], GROUPS[1].tokens)
    with pytest.raises(CodingError, match=r"coded\.safetensors is damaged, at group 2: "):
        tokens[:4]


def test_tokens_that_refine_are_coded_by_the_coder_that_ships(tmp_path):
    plain, coded, back = (tmp_path / f"{name}.safetensors" for name in ("plain", "coded", "back"))
    encode_file("synthetic:64x96@30?seed=5&frames=29", plain, "nano-r")
    for compression in ("coded", "independent"):
        for path in (coded, back):
            path.unlink(missing_ok=True)
        assert main([str(plain), "-o", str(coded), "--compression", compression]) == 0
        assert (TokenFile(coded).tokens[:] >= 64_000).any()
        assert main([str(coded), "-o", str(back), "--compression", "none"]) == 0
        assert back.read_bytes() == plain.read_bytes()
    assert inspect(coded).report["streams"] == inspect(plain).report["streams"]


def test_a_recording_is_coded_read_anywhere_and_plain_again(tmp_path, coder_folder):
    pytest.importorskip("mcap")
    plain, coded, back = (tmp_path / name for name in ("plain.mcap", "coded.mcap", "back.mcap"))
    write_recording(plain, {"front": GROUPS})
    assert main([str(plain), "-o", str(coded), "--coder", str(coder_folder)]) == 0
    assert (tmp_path / FILE).exists()
    messages = list(open_recording(coded).messages())
    assert [message.header.compression for message in messages] == ["coded"] * len(GROUPS)
    assert all(np.array_equal(message.tokens, group.tokens) for message, group in zip(messages, GROUPS, strict=True))
    (track,) = open_tracks(coded)
    chosen = np.array([11, 2, 14, 0, 7])
    assert np.array_equal(track.read(chosen).tokens, np.stack([GROUPS[index].tokens for index in chosen]))
    assert main([str(coded), "-o", str(back), "--compression", "none"]) == 0
    before, after = (list(open_recording(path).messages()) for path in (plain, back))
    assert [m.header for m in after] == [m.header for m in before]
    assert [bytes(m.payload) for m in after] == [bytes(m.payload) for m in before]
    assert open_recording(back).infos() == open_recording(plain).infos()


def test_what_cannot_be_repacked_says_why_and_leaves_nothing(tmp_path, coder_folder, capsys):
    path, out = write_token_file(tmp_path / "drive.safetensors", GROUPS), tmp_path / "out.safetensors"
    assert main([str(path), "-o", str(out)]) == 1
    assert "has no token coder: make one with streamtok train-coder" in capsys.readouterr().err
    assert not out.exists()
    assert main([str(path), "-o", str(path), "--compression", "none"]) == 1
    assert "exists: give another name" in capsys.readouterr().err
    assert main([str(path), "-o", str(out), "--coder", str(coder_folder)]) == 0
    save_coder(make_coder(tokenizer="cd" * 8), tmp_path)
    assert main([str(path), "-o", str(tmp_path / "again.safetensors"), "--coder", str(coder_folder)]) == 1
    assert "is another token coder" in capsys.readouterr().err
    (tmp_path / FILE).unlink()
    with pytest.raises(ValueError, match=r"coded by token coder [0-9a-f]{32}, which is not here"):
        TokenFile(out)
