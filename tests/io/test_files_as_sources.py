"""What a file, a pipe or a folder of images is called, and what is in it: every way in gives the same pictures."""

import contextlib
import io
import json
import os

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

import streamtok
from streamtok.commands import info, replay
from streamtok.drives.open_drive import open_drive
from streamtok.io.images.stills import read_image
from streamtok.io.source import count_from_start, open_source
from streamtok.training.footage import survey
from tests.kit.models import VIDEO, build
from tests.kit.nodes import ingest
from tests.kit.threads import beside
from tests.kit.videos import PLAIN, number_of, numbered, write_two_streams, write_video

PICTURE = np.kron(np.random.default_rng(0).integers(0, 2, (4, 6, 3), np.uint8) * 255, np.ones((8, 8, 1), np.uint8))


@pytest.fixture
def raw(tmp_path):
    """Twelve numbered pictures as raw H.264, which has no times."""
    return write_video(tmp_path / "a b.h264", numbered(12), range(0, 12 * 512, 512), **PLAIN)


def read(spec):
    """(frame id, number of the picture, ms) of every frame."""
    with open_source(str(spec)) as source:
        return [(f.frame_id, number_of(f.image), round((f.capture_ns - source.start_ns) / 1e6)) for f in source]


def test_a_rate_is_taken_wherever_a_video_is_named(raw, capsys):
    at_20 = [(n, n, 50 * n) for n in range(12)]
    url = f"file://localhost{str(raw).replace(' ', '%20')}?fps=20"
    assert read(f"{raw}?fps=20") == read(url) == at_20
    assert read(f"{raw}?fps=30000/1001")[-1] == (11, 11, round(11 * 1001 / 30))
    with open_source(url) as opened:
        assert [round(frame.capture_ns / 1e6) for frame in count_from_start(opened)] == [ms for _, _, ms in at_20]
    with open_drive(url) as drive:
        assert [round(frame.capture_ns / 1e6) for frame in drive] == [ms for _, _, ms in at_20]
    assert info.main([f"{raw}?fps=20", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cameras"]["cam0"]["frames_per_second"] == 20
    run = [frame for _, frame in survey(f"{raw}?fps=20", 12, 4).read()]
    assert [number_of(frame) for frame in run] == list(range(12))


@pytest.mark.parametrize(
    "spec",
    [
        *(f"FILE?fps={value}" for value in ("-5", "0", "nan", "inf", "1e9", "1e99999999", "1e-99999999", "30/", "x")),
        *("FILE?stream=-1", "FILE?stream=x", "/dev/video0?fps=nan", "/dev/video0?freeze_after=inf"),
        *(
            "zmq:tcp://127.0.0.1:1?freeze_after=-1",
            "synthetic:32x32@30?frames=0",
            "camera:FILE#lost=1-inf",
            "camera:FILE#loop=maybe",
        ),
        *("images:DIR?fps=-3", "images:DIR?fps=10&bits=40", "images:DIR?fps=10&unit=h"),
    ],
)
def test_nonsense_in_an_option_is_an_error_with_its_value(spec, raw, tmp_path):
    spec = spec.replace("FILE", str(raw)).replace("DIR", str(tmp_path))
    value = spec.rpartition("=")[2]
    with pytest.raises(ValueError, match=rf"option \w+='{value}'"):
        open_source(spec)


def test_a_file_of_another_machine_and_options_of_another_kind_are_refused(raw, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), PICTURE)
    with pytest.raises(ValueError, match="'server' is another machine"):
        open_source(f"file://server{raw}")
    for spec in (f"{tmp_path}/a.png?fps=3", f"{raw}?bits=12"):
        with pytest.raises(ValueError, match="unknown option"):
            open_source(spec)


@pytest.mark.parametrize("name", ["2024-05-01T12:30:00.h264", "a b?c#d%20e.h264"])
def test_any_name_of_a_file_is_read(raw, tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(raw.read_bytes())
    monkeypatch.chdir(tmp_path)
    for text in (name, f"file://{tmp_path}/{name}"):
        assert len(read(text)) == 12


def test_a_pipe_is_read_to_its_end(raw, tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    with beside((tmp_path / "pipe").write_bytes, raw.read_bytes()):
        assert read(f"{tmp_path}/pipe?fps=25") == [(n, n, 40 * n) for n in range(12)]
    with pytest.raises(ValueError, match="is a pipe, which is read once"):
        open_drive(tmp_path / "pipe")
    with raw.open() as stream:
        kept = os.dup(0)
        os.dup2(stream.fileno(), 0)
        try:
            assert read("-") == [(n, n, 40 * n) for n in range(12)]
        finally:
            os.dup2(kept, 0)


def test_of_several_video_streams_the_default_is_read_and_a_drive_has_them_all(tmp_path, caplog):
    path = write_two_streams(tmp_path / "two.mkv", [numbered(5, 32, 96), numbered(5)], default=1)
    with open_source(str(path)) as source:
        assert source.size == (64, 96)
    assert "2 reason='1 is read, FILE?stream=N reads another'" in caplog.text.replace("count=", "")
    with open_source(f"{path}?stream=0") as source:
        assert source.size == (32, 96)
    with pytest.raises(ValueError, match="no video stream 2: it has 2"), open_source(f"{path}?stream=2"):
        pass
    with open_drive(path) as drive:
        assert [(f.stream, f.image.shape[0]) for f in drive if f.frame_id == 4] == [("cam0", 32), ("cam1", 64)]


@pytest.mark.parametrize("suffix", ["webp", "avif", "png", "gif"])
def test_an_animation_is_all_of_its_pictures_at_their_times(suffix, tmp_path):
    images = [Image.fromarray(image) for image in numbered(4)]
    path = tmp_path / f"a.{suffix}"
    images[0].save(path, save_all=True, append_images=images[1:], duration=[40, 80, 40, 100], loop=0)
    assert read(path) == [(0, 0, 0), (1, 1, 40), (2, 2, 120), (3, 3, 160)]
    with open_drive(path) as drive:
        assert [round(frame.capture_ns / 1e6) for frame in drive] == [0, 40, 120, 160]


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv420p10le"])
@pytest.mark.parametrize("count", [1, 4])
def test_an_avif_of_any_depth_is_as_bright_as_it_was(pixels, count, tmp_path, caplog):
    path = write_video(tmp_path / "a.avif", numbered(count), codec="libsvtav1", pixels=pixels, preset="12", crf="10")
    with open_source(str(path)) as source:
        frames = list(source)
    assert [number_of(frame.image) for frame in frames] == list(range(count))
    for frame, image in zip(frames, numbered(count), strict=True):
        assert frame.image.dtype == np.uint8
        assert np.abs(frame.image.astype(int) - image).mean() < 4
    assert "dark" not in caplog.text


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"big_tiff": False}])
def test_a_tiff_of_several_pages_is_all_of_its_pictures(options, tmp_path):
    images = [Image.fromarray(image) for image in numbered(4)]
    path = tmp_path / "a.tif"
    images[0].save(path, save_all=True, append_images=images[1:], **options)
    assert read(path) == [(n, n, 100 * n) for n in range(4)]
    values = [image[..., 0].astype(np.uint16) * 16 for image in numbered(4)]
    cv2.imwritemulti(str(path), values)
    with open_source(f"{path}?bits=12") as source:
        assert all(np.array_equal(frame.image, numbered(4)[n]) for n, frame in enumerate(source))


@pytest.mark.parametrize("suffix", ["webp", "png"])
def test_an_animation_comes_upright(suffix, tmp_path):
    images = [Image.fromarray(image) for image in numbered(2)]
    path = tmp_path / f"a.{suffix}"
    images[0].save(path, save_all=True, append_images=images[1:], duration=40, exif=exif(6), lossless=True)
    with open_source(str(path)) as source:
        assert [frame.image.shape for frame in source] == [(96, 64, 3)] * 2


def exif(orientation):
    tag = Image.Exif()
    tag[0x0112] = orientation
    return tag


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "avif"])
def test_pictures_are_upright_by_every_path(suffix, orientation, tmp_path, capfd):
    path = tmp_path / "in" / f"0.{suffix}"
    path.parent.mkdir()
    options = {} if suffix in ("png", "tiff") else {"lossless": True} if suffix == "webp" else {"quality": 95}
    Image.fromarray(PICTURE).save(path, exif=exif(orientation), **options)
    upright = read_image(path)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    assert upright.shape == expected.shape
    assert np.abs(upright.astype(int) - expected).mean() < (20 if suffix in ("jpg", "avif") else 1e-9)
    for spec in (str(path), f"images:{path.parent}?fps=10"):
        with open_source(spec, keep_packets=True) as source:
            (frame,) = source
            assert source.size == upright.shape[:2]
        assert np.array_equal(frame.image, upright)
        if frame.packet is not None:
            assert orientation == 1
        with open_drive(spec) as drive:
            assert np.array_equal(next(iter(drive)).image, upright)
    assert capfd.readouterr().err == ""  # no decoder complains


def test_16_bit_pictures_take_the_bits_that_they_are_told_of(tmp_path, caplog):
    values = (PICTURE[..., 0].astype(np.uint16) << 4) | 7  # 12 bits
    for number in range(2):
        cv2.imwrite(str(tmp_path / f"{number}.png"), values)
    with open_source(f"images:{tmp_path}?fps=10") as source:
        assert next(iter(source)).image.max() == 15
    assert f"fill 12 bits come out dark: images:{tmp_path}?bits=12" in caplog.text
    caplog.clear()
    with open_source(str(tmp_path / "0.png")):
        assert f"fill 12 bits come out dark: {tmp_path}/0.png?bits=12" in caplog.text
    caplog.clear()
    spec = f"images:{tmp_path}?fps=10&bits=12"
    with open_source(spec, keep_packets=True) as source, open_drive(spec) as drive:
        for frame in (*source, *drive):
            assert np.array_equal(frame.image, PICTURE[..., :1].repeat(3, 2))
            assert frame.packet is None  # which would be decoded without being told
    with open_source(f"{tmp_path}/0.png?bits=12") as source:
        assert np.array_equal(next(iter(source)).image, PICTURE[..., :1].repeat(3, 2))
    assert not caplog.text


@pytest.mark.parametrize("head", ["P5 16 8 {}\n", "P5\n# a camera's\n# own\n16\n8\n#\n{}\n", "P6 16 8 {} "])
@pytest.mark.parametrize("white", [100, 1023, 4095, 40_000])
def test_white_is_what_a_pnm_says(tmp_path, head, white, caplog):
    grey = np.arange(0, 256, 2).reshape(8, 16)
    stored = np.round(grey * (white / 255)).astype(">u2" if white > 255 else np.uint8)
    data = head.format(white).encode() + np.repeat(stored, 3 if head.startswith("P6") else 1).tobytes()
    (tmp_path / "1.pgm").write_bytes(data)
    for spec in (str(tmp_path / "1.pgm"), f"images:{tmp_path}?fps=10"):
        with open_source(spec, keep_packets=True) as source:
            (frame,) = source
        assert np.abs(frame.image - grey[..., None]).max() <= (2 if white == 100 else 1)
        assert frame.packet is None  # other decoders would show it dark
    assert not caplog.messages
    with open_source(f"{tmp_path}/1.pgm?bits=16") as source:  # the values as they are
        assert source.read().image.max() == stored.max() >> (8 if white > 255 else 0)


def test_hidden_files_of_macos_are_no_pictures_and_a_cut_jpeg_is_damaged(tmp_path):
    for number in range(3):
        data = cv2.imencode(".jpg", np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8))[1].tobytes()
        (tmp_path / f"{number}.jpg").write_bytes(data[: len(data) // 2] if number == 1 else data)
        (tmp_path / f"._{number}.jpg").write_bytes(b"\0\5\26\7")
    with open_source(f"images:{tmp_path}?fps=10") as source:
        assert [frame.frame_id for frame in source] == [0, 2]
        assert source.counts["damaged"] == 1
    with open_drive(f"images:{tmp_path}?fps=10") as drive:
        assert [frame.frame_id for frame in drive] == [0, 2]


def test_recorded_and_replayed_gives_the_same_tokens(raw, tmp_path):
    """What is turned, of 12 bits, animated, one of several streams or without times is recorded as it was encoded."""
    for kind in ("turned", "deep"):
        (tmp_path / kind).mkdir()
    for number, image in enumerate(numbered(9)):
        Image.fromarray(image).save(tmp_path / "turned" / f"{number}.jpg", exif=exif(6))
        cv2.imwrite(str(tmp_path / "deep" / f"{number}.png"), image.astype(np.uint16) << 4)
    images = [Image.fromarray(image) for image in numbered(9)]
    images[0].save(tmp_path / "a.webp", save_all=True, append_images=images[1:], duration=50)
    write_two_streams(tmp_path / "two.mkv", [numbered(9), numbered(9, 32, 96)], default=1)
    sources = [f"images:{tmp_path}/turned?fps=20", f"images:{tmp_path}/deep?fps=20&bits=12", f"{tmp_path}/a.webp"]
    sources += [f"{tmp_path}/two.mkv?stream=0", f"{tmp_path}/two.mkv", f"{raw}?fps=20"]
    tokenizer = build(VIDEO)
    streamtok.save(tokenizer, tmp_path / "model")
    cameras = [{"name": f"cam{n}", "source": source} for n, source in enumerate(sources)]
    ingest(tmp_path / "d.mcap", tokenizer, cameras)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert replay.main([str(tmp_path / "d.mcap"), "--verify", "--json", "--model", str(tmp_path / "model")]) == 0
    assert json.loads(out.getvalue())["compared"] == 19
