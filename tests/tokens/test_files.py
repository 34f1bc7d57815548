"""`streamtok encode` and `decode` on files: any size, any length, times and padding kept, strangers refused."""

import json
import os
import pty
import subprocess
import sys
import termios

import av
import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import streamtok
from streamtok.commands import decode, encode
from streamtok.config import TokenizerConfig
from streamtok.io.picture_writer import open_pictures
from streamtok.io.source import count_from_start, open_source
from streamtok.model import build
from streamtok.tokens.files import EncodeOptions, decode_file, encode_file
from streamtok.tokens.inspecting import inspect
from streamtok.tokens.tokenfile import TokenFile

EXACT = EncodeOptions(deterministic=True, device="cpu")
SMALL = {
    "stem_channels": 16,
    "encoder_channels": (16, 32),
    "decoder_channels": (16, 32),
    "encoder_blocks": (1, 1),
    "decoder_blocks": (1, 1),
}


def small_model(folder, seed=0, **changes) -> str:
    torch.manual_seed(seed)
    streamtok.save(build(TokenizerConfig("small-test", **SMALL | changes)), folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return small_model(tmp_path_factory.mktemp("model") / "m")


def video(path, frames: int, size: tuple[int, int], times_ms=None):
    rng = np.random.default_rng(1)
    pictures = open_pictures(path, size, 30.0)
    base = cv2.resize(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC)
    for index in range(frames):
        time_ms = times_ms[index] if times_ms else index * 1000 / 30
        pictures.write(np.roll(base, index * 2, 1), round(time_ms * 1e6))
    pictures.close()
    return str(path)


@settings(max_examples=8)
@given(frames=st.integers(1, 11), height=st.integers(9, 40), width=st.integers(9, 40))
def test_any_length_and_size_comes_back(tmp_path_factory, model, frames, height, width):
    folder = tmp_path_factory.mktemp("files")
    source = video(folder / "in.mkv", frames, (height, width))
    done = encode_file(source, folder / "t.safetensors", model, EXACT)
    file = TokenFile(folder / "t.safetensors")
    assert done.frames == frames
    assert len(file) == 1 + -(-(frames - 1) // 4)
    assert done.repeated == -(frames - 1) % 4 == file.repeated.sum()
    assert file.tokens.shape[1:] == (-(-height // 8), -(-width // 8))
    assert file.keyframe.tolist() == [True] + [False] * (len(file) - 1)
    back = decode_file(folder / "t.safetensors", folder / "back")
    assert back.frames == frames
    assert cv2.imread(str(folder / "back" / "frame_000000.png")).shape == (height, width, 3)


@pytest.mark.parametrize("hold", [0.0, 0.5])
def test_tokens_are_those_of_the_whole_clip(tmp_path, model, hold):
    source = video(tmp_path / "in.mp4", 14, (40, 48))
    encode_file(source, tmp_path / "t.safetensors", model, EXACT.model_copy(update={"hold": hold}))
    with open_source(source) as opened:
        frames = [frame.image for frame in opened]
    frames += frames[-1:] * 3
    clip = torch.from_numpy(np.stack(frames).transpose(3, 0, 1, 2)[None])
    want = streamtok.load(model, deterministic=True).encode(clip, hold=hold).indices[0]
    np.testing.assert_array_equal(TokenFile(tmp_path / "t.safetensors").tokens, want.numpy())
    assert inspect(tmp_path / "t.safetensors").report["streams"]["cam0"]["hold_margin"] == hold


def test_decoded_pictures_are_those_of_the_whole_clip(tmp_path, model):
    source = video(tmp_path / "in.mp4", 9, (40, 48))
    encode_file(source, tmp_path / "t.safetensors", model, EXACT)
    decode_file(tmp_path / "t.safetensors", tmp_path / "back")
    tokens = torch.from_numpy(TokenFile(tmp_path / "t.safetensors").tokens.astype(np.int64))[None]
    want = streamtok.load(model).decode(tokens)[0].clamp(-1, 1).add(1).mul(127.5).permute(1, 2, 3, 0).numpy()
    for index, picture in enumerate(want):
        got = cv2.imread(str(tmp_path / "back" / f"frame_{index:06d}.png"))[..., ::-1]
        assert np.abs(got - picture).max() <= 0.51 + 1e-2


def test_presentation_times_are_kept(tmp_path, model):
    times_ms = [0, 30, 70, 105, 200, 233, 260, 290]
    source = video(tmp_path / "in.mp4", 8, (24, 32), times_ms)
    encode_file(source, tmp_path / "t.safetensors", model, EXACT)
    assert np.abs(TokenFile(tmp_path / "t.safetensors").capture_ns / 1e6 - times_ms).max() < 0.02
    decode_file(tmp_path / "t.safetensors", tmp_path / "back.mp4")
    with av.open(str(tmp_path / "back.mp4")) as container:
        got = [float(frame.pts * frame.time_base) * 1000 for frame in container.decode(video=0)]
    assert np.abs(np.array(got) - times_ms).max() < 0.03


@pytest.mark.parametrize("changes", [{}, {"video": False, "temporal_compression": 1}])
def test_an_image_takes_the_same_path(tmp_path, changes):
    model = small_model(tmp_path / "m", num_groups=1, **changes)
    picture = cv2.resize(np.random.default_rng(0).integers(0, 255, (4, 5, 3), dtype=np.uint8), (37, 21))
    cv2.imwrite(str(tmp_path / "in.png"), picture)
    done = encode_file(str(tmp_path / "in.png"), tmp_path / "t.safetensors", model, EXACT)
    assert (done.frames, done.groups, done.shape) == (1, 1, (3, 5))
    decode_file(tmp_path / "t.safetensors", tmp_path / "back.png")
    assert cv2.imread(str(tmp_path / "back.png")).shape == (21, 37, 3)


def test_an_image_model_makes_every_frame_a_keyframe(tmp_path):
    model = small_model(tmp_path / "m", video=False, temporal_compression=1)
    source = video(tmp_path / "in.mp4", 5, (24, 32))
    done = encode_file(source, tmp_path / "t.safetensors", model, EXACT)
    assert (done.groups, done.repeated) == (5, 0)
    assert TokenFile(tmp_path / "t.safetensors").keyframe.all()
    assert decode_file(tmp_path / "t.safetensors", tmp_path / "back.mp4").frames == 5


def test_continuous_models_store_float16_latents(tmp_path):
    model = small_model(tmp_path / "m", quantizer="ae", latent_channels=4)
    source = video(tmp_path / "in.mp4", 6, (24, 32))
    done = encode_file(source, tmp_path / "t.safetensors", model, EXACT)
    assert done.shape == (4, 3, 4)
    assert TokenFile(tmp_path / "t.safetensors").tokens.dtype == np.float16
    assert decode_file(tmp_path / "t.safetensors", tmp_path / "back.mp4").frames == 6


@pytest.mark.parametrize("size", [(24, 40), (21, 38)])
def test_resizing_first(tmp_path, model, size):
    source = video(tmp_path / "in.mp4", 3, (48, 64))
    done = encode_file(source, tmp_path / "t.safetensors", model, EncodeOptions(size=size, device="cpu"))
    assert done.shape == (3, 5)
    assert decode_file(tmp_path / "t.safetensors", tmp_path / "back").shape == (*size, 3)


def test_other_weights_are_refused(tmp_path, model):
    encode_file(video(tmp_path / "in.mp4", 2, (16, 16)), tmp_path / "t.safetensors", model, EXACT)
    other = small_model(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="codes mean other pictures"):
        decode_file(tmp_path / "t.safetensors", tmp_path / "back.mp4", model=other)
    assert not (tmp_path / "back.mp4").exists()


def test_what_made_the_file_is_in_its_header(tmp_path, model):
    encode_file(video(tmp_path / "in.mp4", 3, (21, 30)), tmp_path / "t.safetensors", model, EXACT)
    meta = TokenFile(tmp_path / "t.safetensors").meta
    tok = streamtok.load(model)
    assert meta["tokenizer"] == tok.fingerprint
    assert TokenizerConfig.from_dict(meta["config"]) == tok.config
    assert (meta["source_size"], meta["image_size"], meta["source_rect"]) == ([21, 30], [24, 32], [0, 0, 21, 30])
    assert (meta["grid"], meta["frames"], meta["repeated"], meta["source"]) == ([3, 4], 3, 2, "in.mp4")


def test_command_line_says_what_it_did(tmp_path, model, capsys):
    source, out = video(tmp_path / "in.mp4", 7, (24, 32)), str(tmp_path / "t.safetensors")
    assert encode.main([source, "-o", out, "--model", model, "--quiet"]) == 0
    text = capsys.readouterr().out
    assert "7 frames, 3 groups of 3x4" in text
    assert "2 frames are repeats that fill groups" in text
    assert encode.main([source, "-o", out, "--model", model, "--quiet", "--json", "--max-frames", "5"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 5


def test_repeats_of_every_group_are_counted(tmp_path, model, capsys):
    """Two changes of size and the end: three groups that are not whole."""
    (tmp_path / "in").mkdir()
    for number in range(12):
        size = (24, 32) if number // 3 % 2 else (32, 24)
        cv2.imwrite(str(tmp_path / "in" / f"{number:02d}.png"), np.full((*size, 3), 20 * number, np.uint8))
    (tmp_path / "in" / "01.png").write_bytes(b"no picture")
    out = str(tmp_path / "t.safetensors")
    assert encode.main([f"images:{tmp_path}/in?fps=10", "-o", out, "--model", model, "--size", "16x24"]) == 0
    repeated = int(TokenFile(out).repeated.sum())
    text = capsys.readouterr().out
    assert repeated > 3
    assert f"{repeated} frames are repeats that fill groups" in text
    assert "1 frames could not be read" in text


def test_decoding_ends_after_max_frames(tmp_path, model, capsys):
    tokens, out = str(tmp_path / "t.safetensors"), str(tmp_path / "back")
    encode_file(video(tmp_path / "in.mp4", 14, (24, 32)), tokens, model, EXACT)
    assert decode.main([tokens, "-o", out, "--max-frames", "7", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["pictures"], summary["groups"]) == (7, 3)
    assert len(list((tmp_path / "back").glob("*.png"))) == 7
    assert decode_file(tokens, tmp_path / "all.mp4", max_frames=99).frames == 14
    assert decode_file(tokens, tmp_path / "one.png", max_frames=1).groups == 1


@pytest.mark.parametrize("flag", ["--stream front", "--join keyframe", "--join epoch", "--curve keys"])
def test_flags_of_live_streams_are_refused_for_files(tmp_path, model, capsys, flag):
    tokens = str(tmp_path / "t.safetensors")
    encode_file(video(tmp_path / "in.mp4", 2, (24, 32)), tokens, model, EXACT)
    assert decode.main([tokens, "-o", str(tmp_path / "back.mp4"), *flag.split()]) == 2
    assert f"{flag.split()[0]}: only for a live stream" in capsys.readouterr().err
    assert not (tmp_path / "back.mp4").exists()


def test_progress_is_shown_on_terminals_only(tmp_path, model):
    source, out = video(tmp_path / "in.mp4", 6, (24, 32)), str(tmp_path / "t.safetensors")
    command = [sys.executable, "-m", "streamtok.cli", "encode", source, "-o", out, "--model", model]
    assert subprocess.run(command, capture_output=True, check=True).stderr == b""
    control, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    subprocess.run(command, stderr=terminal, check=True)
    os.close(terminal)
    with os.fdopen(control, "rb", 0) as screen:
        assert b"encode" in screen.read(4096)


@pytest.mark.parametrize("source", ["absent.mp4", "empty.mp4", "words.mp4", "words.png"])
def test_what_cannot_be_read_is_one_clear_line(tmp_path, model, capsys, source):
    (tmp_path / "empty.mp4").touch()
    for name in ("words.mp4", "words.png"):
        (tmp_path / name).write_text("these are words, not pictures " * 100)
    status = encode.main([str(tmp_path / source), "-o", str(tmp_path / "t.safetensors"), "--model", model, "--quiet"])
    assert status == 1
    assert source in capsys.readouterr().err
    assert not (tmp_path / "t.safetensors").exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(tmp_path, model):
    """Resident memory after 3,000 frames is that after 500, give or take the allocator."""
    status = "/proc/self/statm"
    if not os.path.exists(status):
        pytest.skip("needs /proc to measure resident memory")

    def resident_after(frames: int) -> float:
        source = f"synthetic:64x96@30?seed=1&frames={frames}"
        encode_file(source, tmp_path / "t.safetensors", model, EXACT)
        decode_file(tmp_path / "t.safetensors", tmp_path / "back.mp4", model=model)
        with open(status) as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    short = resident_after(500)
    assert resident_after(3000) - short < 30


def test_lerobot_export_shows_what_decoding_shows(tmp_path, model):
    """One picture per grid: the last frame of each group, cropped like the source."""
    pytest.importorskip("pyarrow")
    from streamtok.tokens.export import ExportOptions, export

    encode_file(video(tmp_path / "in.mp4", 9, (21, 30)), tmp_path / "t.safetensors", model, EXACT)
    counts = export(tmp_path / "t.safetensors", tmp_path / "out", "lerobot", ExportOptions(video=True))
    assert counts == {"rows": 3, "episodes": 1, "undecodable": 0}
    decode_file(tmp_path / "t.safetensors", tmp_path / "back")
    with av.open(str(tmp_path / "out/videos/observation.images.cam0/chunk-000/file-000.mp4")) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for picture, number in zip(pictures, (0, 4, 8), strict=True):
        want = cv2.imread(str(tmp_path / "back" / f"frame_{number:06d}.png"))[..., ::-1]
        assert picture.shape == want.shape == (21, 30, 3)
        assert np.abs(picture.astype(int) - want).mean() < 8


def test_lerobot_video_of_short_episodes(tmp_path, model):
    """The encoder writes nothing before it has seen more frames than the first of these has."""
    pytest.importorskip("pyarrow")
    from streamtok.tokens.export import ExportOptions, export

    (tmp_path / "in").mkdir()
    for name in "ab":
        encode_file(video(tmp_path / "in.mp4", 5, (16, 24)), tmp_path / "in" / f"{name}.safetensors", model, EXACT)
    counts = export(tmp_path / "in", tmp_path / "out", "lerobot", ExportOptions(video=True))
    assert counts == {"rows": 4, "episodes": 2, "undecodable": 0}
    with av.open(str(tmp_path / "out/videos/observation.images.cam0/chunk-000/file-000.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 4


def test_a_change_of_size_starts_an_epoch_in_a_file_of_its_own_and_nothing_is_lost(model, tmp_path, capsys):
    small, large = ([frame.image for frame in synthetic(size)] for size in ("48x64", "64x80"))
    odd = [image[:42] for image in small]  # encoded at 48x64, too, with another picture in it
    for number, image in enumerate(small + large + small[:2] + odd):
        cv2.imwrite(str(tmp_path / f"{number:02d}.png"), image)
    source, out = f"images:{tmp_path}?fps=10", tmp_path / "t.safetensors"
    command = [source, "-o", str(out), "--model", model, "--quiet", "--json"]
    assert encode.main(command) == 0
    told = json.loads(capsys.readouterr().out)
    paths = [tmp_path / name for name in ("t.safetensors", "t.001.safetensors", "t.002.safetensors")]
    assert (told["frames"], told["others"]) == (17, list(map(str, paths[1:])))
    ids = [TokenFile(path).frame_ids.tolist() for path in paths]
    assert ids == [[0, 1, 2, 3, 4, 10, 11], [5, 6, 7, 8, 9], [12, 13, 14, 15, 16]]
    assert [TokenFile(path).meta["source_size"] for path in paths] == [[48, 64], [64, 80], [42, 64]]
    assert TokenFile(paths[0]).keyframe.tolist() == [True, False, True, False]
    assert decode_file(paths[2], tmp_path / "back").shape == (42, 64, 3)
    assert encode.main([*command, "--size", "48x64"]) == 0
    assert len(TokenFile(out).frame_ids) == 17


def synthetic(size):
    with open_source(f"synthetic:{size}@10?frames=5") as opened:
        yield from count_from_start(opened)
