"""The edges of the library's calls: codes, gradients, scales, sizes, threads, long clips, channels, export."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import streamtok.model.clip_coder
from streamtok.checkpoint import save
from streamtok.model import Encoded
from streamtok.model.decoding import to_uint8
from tests.kit.models import SLIM, encode_by_steps, tiny, video
from tests.kit.threads import beside


@pytest.mark.parametrize("name", ["dv4x8x8", "cv4x8x8", "di8x8"])
def test_codes_are_what_the_decoder_reads_with_gradients_from_end_to_end(name):
    model = tiny(name, dtype=torch.float32)
    clip = video(1 if name == "di8x8" else 5, dtype=torch.float32).requires_grad_()
    clip = clip[:, :, 0].detach().requires_grad_() if name == "di8x8" else clip
    plain = model.encode(clip)
    indices, latent = plain  # an `Encoded` unpacks
    assert not latent.requires_grad
    torch.testing.assert_close(model.codes(plain.tokens), plain.codes, atol=1e-6, rtol=0)
    assert torch.equal(model.decode(plain.codes), model.decode(plain.tokens))
    out = model.encode(clip, gradients=True)
    assert (out.indices is None and indices is None) or torch.equal(out.indices, indices)
    model.decode(out.codes, gradients=True).square().mean().backward()
    assert clip.grad.abs().sum() > 0
    assert all(p.grad is not None for n, p in model.named_parameters() if n.startswith(("encoder.conv_in", "decoder")))


def test_a_latent_is_not_taken_for_codes():
    model = tiny("dv4x8x8", dtype=torch.float32)
    latent = model.encode(video(5, dtype=torch.float32)).latent * 10
    with pytest.raises(ValueError, match=r"codes reach to .*this is a latent before quantization"):
        model.decode(latent)


@pytest.mark.parametrize("name", ["dv4x8x8", "slim-p", "dv8x8x8"])
def test_a_long_clip_in_parts_gives_the_tokens_of_its_steps(name, monkeypatch):
    model, clip = tiny(name), video(1 + 6 * 8, batch=2)
    whole = model.encode(clip), model.decode(model.encode(clip).tokens)
    monkeypatch.setattr(streamtok.model.clip_coder, "MOST_PIXELS", 2 * 2 * model.group * 16 * 32)
    for context in (3, "model", "all"):
        monkeypatch.setattr(streamtok.model.clip_coder, "MOST_PIXELS", 1 << 30)
        expected = model.encode(clip, context=context).latent
        monkeypatch.setattr(streamtok.model.clip_coder, "MOST_PIXELS", 2 * 2 * model.group * 16 * 32)
        torch.testing.assert_close(model.encode(clip, context=context).latent, expected, atol=1e-9, rtol=0)
    latent, indices = encode_by_steps(model, clip)
    assert torch.equal(model.encode(clip).indices, whole[0].indices)
    assert torch.equal(indices, whole[0].indices)
    torch.testing.assert_close(latent, whole[0].latent, atol=1e-9, rtol=0)
    torch.testing.assert_close(model.decode(indices), whole[1], atol=1e-9, rtol=0)


def test_floats_that_look_like_0_to_1_are_refused_where_a_stream_begins():
    model, clip = tiny("slim", dtype=torch.float32), torch.rand(1, 3, 5, 16, 32)
    stream = model.stream(1, 16, 32)
    for refused in (lambda: model.encode(clip), lambda: stream.step(clip[:, :, :1])):
        with pytest.raises(ValueError, match=r"look like \[0, 1\], expected \[-1, 1\]: give 2 \* x - 1"):
            refused()
    for flat in (torch.zeros(1, 3, 5, 16, 32), torch.ones(1, 3, 5, 16, 32)):
        model.encode(flat)
    stream.step(clip[:, :, :1] * 2 - 1)
    stream.step(clip[:, :, 1:])  # a camera that looks into the sun ends no stream


def test_masks_and_sizes_are_taken_or_named():
    model, clip = tiny("slim", dtype=torch.float32), video(5, dtype=torch.float32, batch=2)
    stream = model.stream(slots=2, height=np.int64(16), width=32)
    assert stream.step(clip[:, :, :4], keyframe=True).indices.shape == (2, 1, 2, 4)
    assert stream.started == [True, True]
    with pytest.raises(TypeError, match=r"height is 16.0, expected a whole number"):
        model.stream(slots=1, height=16.0, width=32)
    with pytest.raises(ValueError, match=r"slots is 0, expected at least 1"):
        model.stream(slots=0, height=16, width=32)


def test_a_stream_in_two_threads_counts_what_returned_and_raises_for_the_rest():
    """A lock of the model's forward pass holds one thread inside a step while the other calls."""
    model, clip = tiny("slim", dtype=torch.float32), video(5, dtype=torch.float32)
    stream = model.stream(1, 16, 32)
    stream.step(clip[:, :, :1])
    inside, leave, raised = threading.Event(), threading.Event(), []

    def hold(*_):
        inside.set()
        leave.wait(60)

    hook = model.encoder.register_forward_pre_hook(hold)
    with beside(stream.step, clip[:, :, 1:]):
        assert inside.wait(60)
        for call in (lambda: stream.step(clip[:, :, 1:]), stream.reset, stream.snapshot):
            with pytest.raises(RuntimeError, match="another thread is using this stream"):
                call()
            raised.append(call)
        leave.set()
    hook.remove()
    assert stream.buffers["count"].tolist() == [2]
    stream.step(clip[:, :, 1:])
    assert (len(raised), stream.buffers["count"].tolist()) == (3, [3])


def test_models_of_other_channels_refuse_rgb_and_rgb_models_them():
    wide = tiny("slim", dtype=torch.float32, in_channels=5)
    clip = torch.rand(1, 5, 9, 16, 32) * 2 - 1
    out = wide.encode(clip)
    assert wide.decode(out.indices).shape == clip.shape
    latent, indices = encode_by_steps(wide, clip)
    assert torch.equal(indices, out.indices)
    torch.testing.assert_close(latent, out.latent, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"\(B, 5, T, H, W\) .* 'nano' takes the 5 channels"):
        wide.encode(clip[:, :3])
    with pytest.raises(ValueError, match=r"'nano' takes RGB"):
        tiny("slim", dtype=torch.float32).encode(clip)
    with pytest.raises(ValueError, match=r"\(slots, channels, frames, height, width\)"):
        wide.stream(1, 16, 32).step(clip[:, :3, :1])


class Encode(nn.Module):
    """What docs/coming-from.md exports."""

    def __init__(self, tokenizer):
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, clip):
        return self.tokenizer.encode(clip).indices


class Decode(Encode):
    def forward(self, indices):
        return self.tokenizer.decode(indices)


def test_encode_and_decode_export():
    model, clip = tiny("dv4x8x8", dtype=torch.float32), video(9, dtype=torch.float32)
    indices = model.encode(clip).indices
    encoder = torch.export.export(Encode(model), (clip,)).module()
    decoder = torch.export.export(Decode(model), (indices,)).module()
    assert torch.equal(encoder(clip), indices)
    torch.testing.assert_close(decoder(indices), model.decode(indices))


@pytest.mark.slow
def test_a_compiled_tokenizer_is_the_same_function():
    model, clip = tiny("slim", dtype=torch.float32), video(5, dtype=torch.float32)
    compiled = torch.compile(model)(clip).reconstruction
    torch.testing.assert_close(compiled, model(clip).reconstruction, atol=1e-4, rtol=0)


def test_one_channel_goes_from_a_camera_to_a_decoder(tmp_path):
    """Grey pictures keep their values on the way, on PyTorch's layers and on the engine's."""
    from streamtok.commands import decode, encode

    torch.manual_seed(0)
    grey = streamtok.model.build(streamtok.TokenizerConfig.from_dict({**SLIM.to_dict(), "in_channels": 1}))
    save(grey, tmp_path / "grey")
    source, file = "synthetic:32x64@30?seed=1&frames=9", tmp_path / "tokens.safetensors"
    assert encode.main([source, "-o", str(file), "--model", str(tmp_path / "grey"), "--quiet"]) == 0
    assert decode.main([str(file), "-o", str(tmp_path / "pictures"), "--quiet"]) == 0
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 9
    pixels = torch.randint(0, 256, (1, 1, 4, 8, 8), dtype=torch.uint8)
    assert torch.equal(streamtok.model.frames.match_channels(pixels.expand(-1, 3, -1, -1, -1), 1), pixels)


def test_four_channels_go_from_a_folder_of_arrays_to_a_decoder(tmp_path, capsys):
    """Colour and depth in .npy files, resized on the way; RGB and models of four channels refuse each other by name."""
    from streamtok.commands import decode, encode

    save(tiny("slim", dtype=torch.float32, in_channels=4), tmp_path / "four")
    (tmp_path / "in").mkdir()
    images = np.random.default_rng(0).integers(0, 256, (9, 64, 96, 4), dtype=np.uint8)
    for number, image in enumerate(images):
        np.save(tmp_path / "in" / f"{number}.npy", image)
    source, tokens = f"images:{tmp_path / 'in'}?fps=30", str(tmp_path / "tokens.safetensors")
    four = ["--model", str(tmp_path / "four"), "--quiet"]
    assert encode.main([source, "-o", tokens, "--size", "32x48", *four]) == 0
    assert decode.main([tokens, "-o", str(tmp_path / "out"), "--quiet"]) == 0
    resized = images.reshape(9, 32, 2, 48, 2, 4).astype(int).sum((2, 4)) + 2 >> 2
    clip = torch.from_numpy(resized.astype(np.uint8)).permute(3, 0, 1, 2)[None]
    model = streamtok.load(tmp_path / "four", deterministic=True)
    expected = to_uint8(model.decode(model.encode(clip).indices)[0])
    decoded = [np.load(file) for file in sorted((tmp_path / "out").glob("*.npy"))]
    assert np.abs(np.stack(decoded).astype(int) - expected).max() <= 1
    assert decode.main([tokens, "-o", str(tmp_path / "out.mp4"), "--quiet"]) == 1
    assert "the pictures have 4 channels: give a folder" in capsys.readouterr().err
    assert encode.main([source, "-o", tokens, "--model", "nano", "--quiet"]) == 1
    assert "pictures have 4 channels, the tokenizer takes RGB" in capsys.readouterr().err
    assert encode.main(["synthetic:32x64@30?seed=1&frames=9", "-o", tokens, *four]) == 1
    assert "pictures have 3 channels, the tokenizer takes 4 channels" in capsys.readouterr().err


def test_an_encoded_without_codes_still_unpacks():
    encoded = Encoded(None, torch.zeros(1))
    assert list(encoded) == [None, torch.zeros(1)]
    with pytest.raises(TypeError, match=r"its parts have names, such as \.indices\[0\] or \.latent"):
        encoded[0]


def test_a_precision_is_the_weights_or_the_engine_s():
    plain = streamtok.load("nano")
    half = streamtok.load("nano", dtype=torch.bfloat16)
    assert (half.dtype, half.fingerprint) == (torch.bfloat16, plain.fingerprint)
    with pytest.raises(ValueError, match=r"torch\.bfloat16 beside engine 'default', which has its own precision"):
        streamtok.load("nano", dtype=torch.bfloat16, engine="default")
    with pytest.raises(TypeError, match=r"'bfloat16', expected .* such as torch\.bfloat16"):
        streamtok.load("nano", dtype="bfloat16")


def test_threads_of_a_library_user_sleep_where_they_wait():
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    script = "import os, streamtok; print(os.environ['OMP_WAIT_POLICY'])"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "PASSIVE"


@pytest.mark.parametrize("name", ["di8x8", "cv4x8x8", "dv8x8x8"])
def test_attention_over_space_never_holds_its_whole_matrix(name):
    """PyTorch's kernel that holds it (42 GB at 1080p) is not allowed, in clips, steps and back."""
    model = tiny(name, dtype=torch.float32)
    clip = video(9, dtype=torch.float32) if model.config.video else video(1, dtype=torch.float32)[:, :, 0]
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        model.decode(model.encode(clip).tokens)
        if model.config.video:
            encode_by_steps(model, clip)


def test_tables_of_a_refining_model_that_are_written_have_another_fingerprint():
    model = tiny("dv4x8x8", refinement=64)
    before = model.fingerprint
    model.refinement.books.add_(1)
    assert model.fingerprint != before


@pytest.mark.parametrize("way", ["in place", "data", "assign"])
def test_weights_that_are_exchanged_have_another_fingerprint_and_other_copies(way):
    model, other = tiny("dv4x8x8"), {name: weight + 0.5 for name, weight in tiny("dv4x8x8").state_dict().items()}
    before, copied = model.fingerprint, model.cast(torch.float16)
    if way == "data":
        for name, weight in model.named_parameters():
            weight.data = other[name]
    else:
        model.load_state_dict(other, assign=way == "assign")
    with pytest.raises(ValueError, match="other weights"):
        model.check_fingerprint(before)
    assert model.cast(torch.float16) is not copied
