"""Convolutions in 8 bits: whole-number arithmetic, independence of frames and slots, agreement, clear refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import streamtok
from streamtok.config import PRESETS
from streamtok.engine.configuration import EngineConfiguration, inspect_machine
from streamtok.engine.cpu import eight_bit
from streamtok.engine.optimized import apply_configuration, memory_needed
from streamtok.engine.planning import list_candidates
from streamtok.engine.precision import FLOOR, Trial, choose, complete_choice, format_trials, pick_trial
from streamtok.model import build
from streamtok.model.layers import SpatialConv
from streamtok.weights.golden import reference_clip

SIZE = (64, 96)
INT8 = EngineConfiguration(precision="int8", kernels="interleaved")

pytestmark = pytest.mark.skipif(not eight_bit.products_are_exact("cpu"), reason="this processor cuts sums to 16 bits")


@pytest.fixture(scope="module")
def nano():
    return streamtok.load("nano")


@pytest.fixture(params=["onednn", "columns"])
def path(request, monkeypatch):
    if request.param == "columns":
        monkeypatch.setattr(eight_bit, "_ONEDNN", False)
    elif not eight_bit._ONEDNN:
        pytest.skip("this PyTorch has no oneDNN")


def conv(weight, bias):
    layer = SpatialConv(weight.shape[1], weight.shape[0], 3, padding=1)
    layer.weight.data, layer.bias.data = weight, bias
    return layer


def whole_numbers(x, weight, bias):
    """The 3x3 convolution of int64 arrays, place by place."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    out = np.empty((len(weight), *x.shape[1:]), np.int64)
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            out[:, i, j] = (weight * padded[:, i : i + 3, j : j + 3]).sum((1, 2, 3)) + bias
    return out


@torch.no_grad()
def test_whole_numbers_come_out_exactly(path):
    random = np.random.default_rng(0)
    x = random.integers(-100, 155, (16, 7, 9))
    x[0, 0, :2] = -100, 154  # a range of 254 steps, so that one step is 1
    weight, bias = random.integers(-127, 128, (24, 16, 3, 3)), random.integers(-500, 500, 24)
    weight[:, 0, 0, 0] = 127
    layer = eight_bit.EightBitConv(conv(*(torch.from_numpy(part).float() for part in (weight, bias))))
    found = layer(torch.from_numpy(x).float()[None])
    assert np.array_equal(found[0].numpy(), whole_numbers(x, weight, bias))


@torch.no_grad()
@pytest.mark.parametrize("channels_last", [False, True])
def test_real_values_are_those_whole_numbers_scaled(path, channels_last):
    generator = torch.Generator().manual_seed(1)
    x = F.silu(3 * torch.randn(2, 16, 6, 10, generator=generator))
    weight, bias = torch.randn(8, 16, 3, 3, generator=generator), torch.randn(8, generator=generator)
    layer = eight_bit.EightBitConv(conv(weight, bias))
    found = layer(x.contiguous(memory_format=torch.channels_last) if channels_last else x)
    for frame, y in zip(x.double().numpy(), found.double().numpy(), strict=True):
        scale = (frame.max() - min(frame.min(), 0)) / 254
        scales = np.abs(weight.double().numpy()).max((1, 2, 3)) / 127
        zero = np.round(frame.min() / scale)
        numbers = np.round(frame / scale) - zero
        assert numbers.min() == 0
        assert numbers.max() <= 255
        rows = np.round(weight.double().numpy() / scales[:, None, None, None]).astype(np.int64)
        sums = whole_numbers((numbers + zero).astype(np.int64), rows, 0)
        wanted = sums * scale * scales[:, None, None] + bias.double().numpy()[:, None, None]
        assert np.abs(y - wanted).max() < 1e-6 * np.abs(wanted).max()


@torch.no_grad()
def test_frames_of_a_batch_do_not_see_each_other(path):
    layer = eight_bit.EightBitConv(SpatialConv(16, 8, 3, padding=1))
    frames = torch.randn(3, 16, 6, 10) * torch.tensor([1.0, 1000.0, 0.0]).view(3, 1, 1, 1)
    assert all(torch.equal(layer(frames[i : i + 1])[0], y) for i, y in enumerate(layer(frames)))


@torch.no_grad()
def test_half_precision_around_it_changes_its_rounding_only(path):
    layer, x = eight_bit.EightBitConv(SpatialConv(16, 8, 3, padding=1)), torch.randn(1, 16, 6, 10).half()
    assert torch.equal(layer(x), layer(x.float()).half())


def test_steps_and_whole_clips_agree(nano):
    """Float32 layers sum a whole clip in another order."""
    fast, clip = apply_configuration(nano, INT8), reference_clip(9, *SIZE)
    stream = fast.stream(1, *SIZE)
    steps = torch.cat([stream.step(part).indices for part in clip.split([1, 4, 4], 2)], 1)
    assert (fast.encode(clip).indices == steps).float().mean() > 0.97


def test_tokens_agree_with_float32_above_the_floor(nano, caplog):
    size = (128, 224)
    with caplog.at_level("INFO", "streamtok.engine"):
        chosen = choose(nano, inspect_machine(nano.fingerprint, size), "int8", reference_clip(21, *size))
    assert chosen.precision == "int8"
    assert FLOOR < chosen.agreement["int8"] < 1
    assert any("precision=int8" in line and "chosen" in line for line in caplog.messages)
    assert "int8" not in list_candidates("cpu") + list_candidates("cuda")  # not on every clip: it has to be asked for


@pytest.mark.parametrize(("agreement", "chosen"), [(FLOOR - 0.01, "float32"), (FLOOR + 0.01, "int8")])
def test_a_precision_is_picked_only_above_the_floor(nano, agreement, chosen):
    machine, tokens = inspect_machine(nano.fingerprint, SIZE), torch.zeros(1, 1, 8, 12, dtype=torch.int32)
    trials = {
        "float32": Trial(machine, tokens, 20.0, 1.0),
        "int8": Trial(replace(machine, precision="int8"), tokens, 10.0, agreement),
    }
    picked = pick_trial(trials, list(trials))
    found = complete_choice(nano, trials, picked, reference_clip(5, *SIZE))
    assert found.precision == picked == chosen
    assert found.agreement == {"float32": 1.0, "int8": agreement}
    assert sum("chosen" in line for line in format_trials(trials, picked)) == 1


def test_weights_take_less_and_keep_their_fingerprint(nano):
    fast = apply_configuration(nano, INT8)
    assert fast.fingerprint == nano.fingerprint
    assert memory_needed(fast, 1, SIZE)["weights"] < memory_needed(nano, 1, SIZE)["weights"]
    again = apply_configuration(fast, INT8)
    clip = reference_clip(5, *SIZE)
    assert torch.equal(again.encode(clip).indices, fast.encode(clip).indices)


def test_every_kind_of_model_runs():
    torch.manual_seed(0)
    small = {"stem_channels": 16, "encoder_channels": (16, 32), "decoder_channels": (16, 32)}
    blocks = {"encoder_blocks": (1, 1), "decoder_blocks": (1, 1)}
    clip = reference_clip(5, *SIZE)
    for name in ("nano-p", "cosmos-cv4x8x8"):
        model = build(replace(PRESETS[name], **small | (blocks if name.startswith("cosmos") else {})))
        found, wanted = apply_configuration(model, INT8).encode(clip).latent, model.encode(clip).latent
        assert 0 < float((found - wanted).norm() / wanted.norm()) < 0.1


def test_what_cannot_run_says_why(nano, monkeypatch):
    fast = apply_configuration(nano, INT8)
    with pytest.raises(ValueError, match="8 bits; cast a tokenizer"):
        fast.stream(1, *SIZE, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="cannot run in float32"):
        apply_configuration(fast, EngineConfiguration())
    with pytest.raises(ValueError, match="'fused' are for float16"):
        EngineConfiguration(device="cuda", precision="int8", kernels="fused")
    odd = replace(PRESETS["nano"], encoder_channels=(20, 32), decoder_channels=(20, 32))
    with pytest.raises(ValueError, match=r"\[20\] are not multiples of 8"):
        apply_configuration(build(odd), INT8)
    monkeypatch.setattr(eight_bit, "products_are_exact", lambda device: False)
    with pytest.raises(ValueError, match="not added in 32 bits; use float32"):
        apply_configuration(nano, INT8)
