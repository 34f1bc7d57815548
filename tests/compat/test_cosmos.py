"""Cosmos' classes with their calls, and `streamtok reconstruct`."""

import json

import numpy as np
import pytest
import torch

from streamtok.checkpoint import to_published
from streamtok.commands import reconstruct
from streamtok.compat.cosmos import CausalVideoTokenizer, ImageTokenizer
from streamtok.compat.reconstruct import pair_pictures
from streamtok.types import Frame
from tests.kit.models import tiny
from tests.kit.published import half, small, write_archive
from tests.kit.videos import numbered, write_video


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Small models in the layout of the published ones, by kind."""
    made = {}
    for kind in ("DV4x8x8", "CV8x8x8", "DI16x16-360p"):
        model = small(kind)
        folder = tmp_path_factory.mktemp("published") / f"Cosmos-Tokenizer-{kind}"
        folder.mkdir()
        weights = to_published(model)
        write_archive(half(weights, "encoder", "quant_conv"), folder / "encoder.jit")
        write_archive(half(weights, "decoder", "post_quant_conv"), folder / "decoder.jit")
        made[kind] = model, folder
    return made


def halves(folder):
    return {"checkpoint_enc": str(folder / "encoder.jit"), "checkpoint_dec": str(folder / "decoder.jit")}


CPU = {"device": "cpu", "dtype": "float32"}


def test_a_discrete_video_tokenizer_has_their_calls(published):
    model, folder = published["DV4x8x8"]
    theirs, clip = CausalVideoTokenizer(**halves(folder), **CPU), torch.rand(1, 3, 9, 32, 48) * 2 - 1
    indices, codes = theirs.encode(clip)
    assert (indices.shape, indices.dtype, codes.shape) == ((1, 3, 4, 6), torch.int32, (1, 6, 3, 4, 6))
    assert torch.equal(indices, model.encode(clip, context="all").indices)
    assert torch.equal(theirs.decode(indices), model.decode(indices, context="all"))
    assert torch.equal(theirs.autoencode(clip), theirs.decode(indices))
    half_precision = CausalVideoTokenizer(checkpoint_enc=str(folder / "encoder.jit"), device="cpu")
    assert half_precision.encode(clip.bfloat16())[1].dtype == torch.bfloat16
    with pytest.raises(ValueError, match="of the encoder alone"):
        half_precision.decode(indices)


def test_arrays_of_any_size_and_length_come_back_in_their_windows(published):
    model, folder = published["DV4x8x8"]
    theirs = CausalVideoTokenizer(**halves(folder), **CPU)
    pictures = np.random.default_rng(0).integers(0, 256, (1, 22, 30, 50, 3), dtype=np.uint8)
    out = theirs(pictures, temporal_window=17)
    assert (out.shape, out.dtype) == (pictures.shape, np.uint8)
    assert np.array_equal(out[:, :17], theirs(pictures[:, :17]))
    # Their second window: 5 frames, of whose 4 repeats half come first; sides in the middle of black.
    padded = np.pad(pictures[:, 17:], ((0, 0), (2, 2), (0, 0), (0, 0), (0, 0)), mode="edge")
    padded = np.pad(padded, ((0, 0), (0, 0), (1, 1), (7, 7), (0, 0)))
    shown = model.decode(model.encode(torch.from_numpy(np.moveaxis(padded, -1, 1).copy()), context="all").indices)
    expected = ((shown[0].clamp(-1, 1) + 1) / 2 * 255 + 0.5).byte().permute(1, 2, 3, 0).numpy()
    assert np.array_equal(out[0, 17:], expected[2:7, 1:31, 7:57])
    whole = theirs(pictures, temporal_window=None)
    assert whole.shape == pictures.shape
    assert not np.array_equal(whole[:, 17:], out[:, 17:])  # it goes on from what was before
    for wrong, error in ((pictures.astype(np.float32), TypeError), (pictures[0], ValueError)):
        with pytest.raises(error, match=r"pictures .* expected .*\(B, T, H, W, 3\)"):
            theirs(wrong)


def test_continuous_and_image_tokenizers(published):
    model, folder = published["CV8x8x8"]
    clip = torch.rand(1, 3, 9, 32, 32) * 2 - 1
    (latent,) = CausalVideoTokenizer(**halves(folder), **CPU).encode(clip)
    assert torch.equal(latent, model.encode(clip, context="all").latent)
    model, folder = published["DI16x16-360p"]
    image = ImageTokenizer(**halves(folder), **CPU)
    indices, codes = image.encode(clip[:, :, 0])
    assert (indices.shape, codes.shape) == ((1, 2, 2), (1, 6, 2, 2))
    assert image(np.zeros((2, 20, 33, 3), np.uint8)).shape == (2, 20, 33, 3)
    with pytest.raises(ValueError, match="'cosmos-di16x16-360p', which is no model of a CausalVideoTokenizer"):
        CausalVideoTokenizer(**halves(folder), **CPU)
    with pytest.raises(ValueError, match="no checkpoint is given"):
        ImageTokenizer(**CPU)
    with pytest.raises(ValueError, match="dtype is 'half16', expected bfloat16"):
        ImageTokenizer(**halves(folder), device="cpu", dtype="half16")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device 'cuda': this machine has no CUDA device"):
            ImageTokenizer(**halves(folder))


def test_reconstruct_writes_every_file_and_reports(published, tmp_path, capsys):
    for name, frames in (("a", 12), ("b", 5)):
        write_video(tmp_path / f"{name}.mp4", numbered(frames), range(frames))
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    _, folder = published["DV4x8x8"]
    flags = ["--checkpoint_enc", str(folder / "encoder.jit"), "--checkpoint_dec", str(folder / "decoder.jit")]
    flags += ["--output_dir", str(tmp_path / "out"), "--temporal_window", "5", "--save_input", "--quiet", "--json"]
    assert reconstruct.main(["--video_pattern", str(tmp_path / "*.mp4"), *flags]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [one["frames"] for one in report["files"]] == [12, 5]
    assert list(report["failed"]) == [str(tmp_path / "broken.mp4")]
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"a.mp4", "b.mp4", "a_input.mp4", "b_input.mp4"}
    assert 5 < report["psnr"] < 40


def test_reconstruct_goes_on_where_no_window_is_asked():
    model = tiny("slim", dtype=torch.float32)
    pictures = np.random.default_rng(1).integers(0, 256, (11, 20, 30, 3), dtype=np.uint8)
    frames = [Frame("a", i, i, picture) for i, picture in enumerate(pictures)]
    shown = np.stack([picture for _, picture in pair_pictures(model, frames, None)])
    padded = np.pad(pictures, ((0, 2), (0, 4), (0, 2), (0, 0)), mode="edge")
    clip = torch.from_numpy(np.moveaxis(padded, -1, 0)[None].copy())
    whole = model.decode(model.encode(clip).indices)[0, :, :11, :20, :30]
    expected = (whole.clamp(-1, 1) + 1).mul(127.5).round().byte().permute(1, 2, 3, 0).numpy()
    assert np.abs(shown.astype(int) - expected).max() <= 1
    afresh = np.stack([picture for _, picture in pair_pictures(model, frames, 5)])
    assert np.array_equal(afresh[:5], shown[:5])
    assert not np.array_equal(afresh[5:], shown[5:])


def test_two_sources_of_a_model_and_of_a_name_are_refused(tmp_path, capsys):
    (tmp_path / "x").mkdir()
    for path in (tmp_path / "a.mp4", tmp_path / "x" / "a.mp4"):
        path.write_bytes(b"")
    assert reconstruct.main([str(tmp_path / "a.mp4"), "--model", "nano", "--checkpoint", "x.jit"]) == 2
    assert "say twice what to load" in capsys.readouterr().err
    assert reconstruct.main([str(tmp_path), str(tmp_path / "x"), "--quiet"]) == 1
    assert "would be written to one file" in capsys.readouterr().err
    (tmp_path / "mac").mkdir()
    (tmp_path / "mac" / "._a.mp4").write_bytes(b"Mac OS X")  # which macOS leaves beside a.mp4
    for nothing in ("none*", "mac"):
        assert reconstruct.main([str(tmp_path / nothing), "--quiet"]) == 1
        assert "names no video and no image" in capsys.readouterr().err
