"""The CPU's layers give the plain ones' latents and snapshots; slots, resets and bad frames behave."""

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from streamtok.config import PRESETS
from streamtok.engine.configuration import EngineConfiguration
from streamtok.engine.cpu import eight_bit, nnpack
from streamtok.engine.optimized import apply_configuration
from streamtok.engine.rings import roll, unroll
from streamtok.model import NonFiniteError, build
from streamtok.weights.golden import reference_clip

SIZE = (32, 48)
TINY = {"stem_channels": 16, "encoder_channels": (16, 32), "decoder_channels": (16, 32)}


KINDS = ("nano", "nano-p", "nano-r", "nano-pr", "cosmos-cv4x8x8")
CASES = [("nano", "direct"), ("nano", "nnpack"), ("nano-p", "nnpack"), ("cosmos-cv4x8x8", "direct")]
COSMOS = {"context": 3, "encoder_blocks": (1, 1), "decoder_blocks": (1, 1)}
on_every_engine = pytest.mark.parametrize("case", [*CASES, ("nano", "int8")], ids="-".join, indirect=True)


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request):
    """A tokenizer, and the convolutions that its engine has, or "int8"."""
    name, convolutions = request.param
    if convolutions == "int8" and not eight_bit.products_are_exact("cpu"):
        pytest.skip("this processor cuts sums to 16 bits")
    return build_tiny(name), convolutions


def build_tiny(name):
    torch.manual_seed(0)
    return build(replace(PRESETS[name], **TINY, **(COSMOS if name.startswith("cosmos") else {})))


@pytest.fixture
def tok(case):
    return case[0]


@pytest.fixture
def fast(case, monkeypatch):
    """The same on its engine; with NNPACK's convolutions all layers count as wide, and images as large."""
    monkeypatch.setattr(nnpack, "WIDE", 0)
    monkeypatch.setattr(nnpack, "LARGE", 0)
    chosen = {"precision": "int8"} if case[1] == "int8" else {"convolutions": case[1]}
    return apply_configuration(case[0], EngineConfiguration(kernels="interleaved", **chosen))


def groups(tok, count, slots=1):
    scenes = torch.cat([reference_clip(count * tok.group, *SIZE, start=seed) for seed in range(slots)])
    return list(scenes.split(tok.group, 2))


@pytest.mark.parametrize("floats", [False, True], ids=["bytes", "floats"])
def test_steps_equal_plain_past_a_reset(tok, fast, floats):
    plain, quick = tok.stream(1, *SIZE), fast.stream(1, *SIZE)
    for i, group in enumerate(groups(tok, 9)):
        frames = group.float() / 127.5 - 1 if floats else group
        wanted, found = (stream.step(frames, keyframe=[i in (0, 5, 6)]) for stream in (plain, quick))
        torch.testing.assert_close(found.latent, wanted.latent, rtol=0, atol=1e-5)


def test_decoding_equals_plain(tok, fast):
    grid = SIZE[0] // 8, SIZE[1] // 8
    plain, quick, encoder = tok.decode_stream(1, *grid), fast.decode_stream(1, *grid), tok.stream(1, *SIZE)
    for i, group in enumerate(groups(tok, 5)):
        tokens = encoder.step(group, keyframe=[i == 0]).tokens
        wanted = plain.step(tokens)
        torch.testing.assert_close(quick.step(tokens), wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


def test_pictures_of_a_bfloat16_engine_are_float32_as_those_of_a_plain_model():
    tok = build_tiny("nano")
    fast = apply_configuration(tok, EngineConfiguration(kernels="interleaved", precision="bfloat16"))
    tokens = tok.encode(reference_clip(1, *SIZE)).tokens
    wanted, found = (each.decode_stream(1, SIZE[0] // 8, SIZE[1] // 8).step(tokens) for each in (tok, fast))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.05 * float(wanted.abs().max()))


def test_a_float64_engine_computes_all_in_float64():
    plain = build_tiny("nano").double()
    fast = apply_configuration(plain, EngineConfiguration(kernels="interleaved", precision="float64"))
    encoders = [tok.stream(1, *SIZE) for tok in (plain, fast)]
    decoders = [tok.decode_stream(1, SIZE[0] // 8, SIZE[1] // 8) for tok in (plain, fast)]
    for i, group in enumerate(groups(plain, 3)):
        wanted, found = (stream.step(group, keyframe=[i == 0]) for stream in encoders)
        torch.testing.assert_close(found.latent, wanted.latent, rtol=0, atol=1e-12)
        shown, pictures = (stream.step(wanted.tokens) for stream in decoders)
        torch.testing.assert_close(pictures, shown, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", KINDS)
def test_whole_clips_run_on_the_plain_layers_whatever_kind_the_model_is(name):
    tok = build_tiny(name)
    fast = apply_configuration(tok, EngineConfiguration(kernels="interleaved"))
    clip = reference_clip(1 + 2 * tok.group, *SIZE)
    wanted = tok.encode(clip)
    assert torch.equal(fast.encode(clip).tokens, wanted.tokens)
    assert torch.equal(fast.codes(wanted.tokens), tok.codes(wanted.tokens))
    assert torch.equal(fast.decode(wanted.tokens), tok.decode(wanted.tokens))


def test_another_precision_of_an_engines_tokenizer_is_plain(tok, fast):
    wide = fast.stream(1, *SIZE, dtype=torch.float64), tok.stream(1, *SIZE, dtype=torch.float64)
    for i, group in enumerate(groups(tok, 2)):
        found, wanted = (stream.step(group, keyframe=[i == 0]).latent for stream in wide)
        assert found.dtype == torch.float64
        assert torch.equal(found, wanted)


def test_snapshots_pass_between_engines(tok, fast):
    plain, quick, resumed = tok.stream(1, *SIZE), fast.stream(1, *SIZE), fast.stream(1, *SIZE)
    *first, last = groups(tok, 5)
    for i, group in enumerate(first):
        for stream in (plain, quick):
            stream.step(group, keyframe=[i == 0])
        wanted, snapshot = plain.snapshot(), quick.snapshot()
        assert snapshot["meta"] == wanted["meta"]
        for name, tensor in wanted["tensors"].items():
            torch.testing.assert_close(snapshot["tensors"][name], tensor, rtol=0, atol=2e-5)
    resumed.restore(snapshot)
    found = resumed.step(last).latent
    assert torch.equal(found, quick.step(last).latent)
    plain.restore(snapshot)
    torch.testing.assert_close(plain.step(last).latent, found, rtol=0, atol=1e-5)


@on_every_engine
def test_slots_are_independent_and_idle_ones_do_not_move(tok, fast):
    rig, alone = fast.stream(2, *SIZE), [fast.stream(1, *SIZE) for _ in range(2)]
    running = [[True, True], [True, False], [False, True], [True, True], [True, True]]
    for i, group in enumerate(groups(tok, 5, slots=2)):
        marks = [i in (0, 3), i == 0]
        before = rig.snapshot()["tensors"]
        found = rig.step(group, active=running[i], keyframe=marks)
        after = rig.snapshot()["tensors"]
        for slot, stream in enumerate(alone):
            if running[i][slot]:
                wanted = stream.step(group[slot : slot + 1], keyframe=marks[slot : slot + 1])
                assert torch.equal(found.latent[slot], wanted.latent[0])
            else:
                assert all(torch.equal(after[name][slot], before[name][slot]) for name in before)


@on_every_engine
def test_frames_that_are_not_finite_leave_no_trace(tok, fast):
    stream, clean = fast.stream(1, *SIZE), fast.stream(1, *SIZE)
    first, second, third = (group.float() / 127.5 - 1 for group in groups(tok, 3))
    for other in (stream, clean):
        other.step(first, keyframe=[True])
    with pytest.raises(NonFiniteError):
        stream.step(torch.full_like(first, torch.nan))
    for group in (second, third):
        assert torch.equal(stream.step(group).latent, clean.step(group).latent)


@on_every_engine
def test_keyframe_that_is_not_finite_leaves_its_slot_fresh(tok, fast):
    stream, fresh = (fast.stream(2, *SIZE) for _ in range(2))
    first, second = (torch.cat([group.float() / 127.5 - 1] * 2) for group in groups(tok, 2))
    stream.step(first, keyframe=[True, True])
    broken = second.clone()
    broken[0] = torch.nan
    with pytest.raises(NonFiniteError):
        stream.step(broken, keyframe=[True, False])
    assert stream.started == [False, True]
    with pytest.raises(ValueError, match="fresh"):
        stream.step(second)
    found = stream.step(first, keyframe=[True, False]).latent[0]
    assert torch.equal(found, fresh.step(first, keyframe=[True, True]).latent[0])


@pytest.mark.parametrize("steps", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_nothing_is_allocated_that_stays(tok, fast, steps):
    stream = fast.stream(1, *SIZE)
    first, second = groups(tok, 2)
    stream.step(first, keyframe=[True])
    places = [buffer.data_ptr() for buffer in stream.buffers.values()]
    for _ in range(steps):
        stream.step(second)
    assert [buffer.data_ptr() for buffer in stream.buffers.values()] == places


@pytest.mark.parametrize("bias", [True, False])
def test_nnpack_equals_direct_at_every_size(bias, monkeypatch):
    monkeypatch.setattr(nnpack, "LARGE", 0)
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 3, 3, padding=1, bias=bias)
    exact, fast = copy.deepcopy(conv).double(), nnpack.NnpackConv(conv)
    with torch.no_grad():
        for count, *size in itertools.product((1, 3), (1, 2, 3, 4, 5, 8, 21), (1, 2, 3, 4, 5, 7, 21)):
            x = torch.randn(count, 5, *size)
            torch.testing.assert_close(fast(x).double(), exact(x.double()), rtol=0, atol=2e-5)
            assert torch.equal(fast(x)[-1:], fast(x[-1:]))  # alone or among others


def test_layers_that_would_not_gain_are_left_alone():
    tok = build(PRESETS["nano"])
    fast = nnpack.use_nnpack(tok)
    made = {name for name, module in fast.named_modules() if isinstance(module, nnpack.NnpackConv)}
    assert {"encoder.conv_in.spatial", "encoder.down.1.block.0.conv2.spatial", "decoder.conv_out"} <= made
    assert not {"encoder.down.0.downsample.conv1", "encoder.conv_out.spatial", "decoder.conv_in.spatial"} & made
    assert fast.fingerprint == tok.fingerprint
    conv, small = fast.encoder.down[1].block[0].conv2.spatial, torch.randn(1, 160, 15, 17)
    with torch.no_grad():
        assert torch.equal(conv(small), tok.encoder.down[1].block[0].conv2.spatial(small))


def test_ring_and_plain_past_are_inverses():
    count = torch.tensor([0, 1, 2, 7])
    for past, steps in ((2, 1), (2, 2), (1, 2)):
        ring = torch.randn(4, past + steps, 2, 3, 5)
        plain = unroll(ring, count, past)
        assert torch.equal(unroll(roll(plain, count, past + steps), count, past)[2:], plain[2:])
        assert not plain[0].any()


def test_models_that_resample_time_say_why():
    with pytest.raises(ValueError, match="does not step one frame"):
        apply_configuration(
            build(replace(PRESETS["cosmos-cv8x8x8"], **_small())), EngineConfiguration(kernels="interleaved")
        )


def _small():
    return {"stem_channels": 16, "encoder_channels": (16, 16, 16), "decoder_channels": (16, 16, 16)}
