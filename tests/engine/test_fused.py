"""The fused encoder behaves as the plain one: same latents within rounding, same state, same snapshots."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton", reason="the GPU kernels need triton (comes with PyTorch for CUDA; pip install triton)")

from streamtok.config import PRESETS
from streamtok.engine.configuration import EngineConfiguration
from streamtok.engine.gpu.fused import find_fusing_obstacle, fuse_model
from streamtok.engine.gpu.fused_streams import FusedStream
from streamtok.model import NonFiniteError, build
from streamtok.weights.golden import reference_clip

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
SIZE = (32, 48)
GRAPHS = [False, True] if CUDA else [False]


@pytest.fixture(
    scope="module", params=["cosmos-dv4x8x8", pytest.param("cosmos-dv8x8x8", marks=pytest.mark.slow), "nano"]
)
def model(request):
    torch.manual_seed(0)
    config = PRESETS[request.param]
    if config.mid:
        channels = (16, 32, 32)
        config = replace(config, stem_channels=16, encoder_channels=channels, decoder_channels=channels, context=3)
    return build(config).cast(torch.float16, DEVICE)


def fused_stream(model, slots=1, graph=False, slots_per_step=1):
    configuration = EngineConfiguration(
        device=DEVICE,
        precision="float16" if CUDA else "bfloat16",
        kernels="fused",
        graph=graph,
        slots_per_step=slots_per_step,
    )
    return FusedStream(fuse_model(model), slots, SIZE, model.config.context, configuration)


def groups(model, count):
    frames = reference_clip(count * model.group, *SIZE).to(DEVICE)
    return list(frames.split(model.group, 2))


def relative(found, wanted):
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


@pytest.mark.parametrize("graph", GRAPHS)
def test_fused_equals_plain_past_the_context(model, graph):
    plain, fused = model.stream(1, *SIZE), fused_stream(model, graph=graph)
    for i, group in enumerate(groups(model, 5)):
        wanted = plain.step(group, keyframe=[i in (0, 3)])
        found = fused.step(group, keyframe=[i in (0, 3)])
        assert relative(found.latent, wanted.latent) < 5e-3
        assert found.indices.shape == wanted.indices.shape
        assert found.indices.dtype == torch.int32


@pytest.mark.parametrize("graph", GRAPHS)
def test_snapshot_is_the_plain_one_and_resumes_bit_for_bit(model, graph):
    plain, fused, resumed = model.stream(1, *SIZE), fused_stream(model, graph=graph), fused_stream(model, graph=graph)
    *first, last = groups(model, 4)
    for i, group in enumerate(first):
        plain.step(group, keyframe=[i == 0])
        fused.step(group, keyframe=[i == 0])
    wanted, snapshot = plain.snapshot(), fused.snapshot()
    assert snapshot["meta"] == wanted["meta"]
    for name, tensor in wanted["tensors"].items():
        assert snapshot["tensors"][name].shape == tensor.shape
        if name != "count":
            assert relative(snapshot["tensors"][name], tensor) < 1e-2
    resumed.restore(snapshot)
    found = resumed.step(last)
    assert torch.equal(found.latent, fused.step(last).latent)
    plain.restore(snapshot)
    assert relative(plain.step(last).latent, found.latent) < 5e-3


@pytest.mark.parametrize("graph", GRAPHS)
def test_idle_and_bad_slots_do_not_move(model, graph):
    if not CUDA and model.config.mid:
        pytest.skip("covered by the smaller model; the interpreter is slow")
    stream, alone = fused_stream(model, slots=2, graph=graph), fused_stream(model, graph=graph)
    first, second, third = (group / 127.5 - 1 for group in (g.float() for g in groups(model, 3)))
    stream.step(torch.cat([first, first]), keyframe=[True, True])
    alone.step(first, keyframe=[True])
    stream.step(torch.cat([first, second]), active=[False, True])
    broken = torch.cat([torch.full_like(second, torch.nan), third])
    with pytest.raises(NonFiniteError) as raised:
        stream.step(broken)
    assert raised.value.slots == [0]
    out = stream.step(torch.cat([second, third]), active=[True, False])
    assert torch.equal(out.latent[:1], alone.step(second).latent)


@pytest.mark.parametrize("graph", GRAPHS)
def test_slots_of_one_step_do_not_mix(model, graph):
    if not CUDA and model.config.mid:
        pytest.skip("covered by the smaller model; the interpreter is slow")
    rig, alone = fused_stream(model, 2, graph, slots_per_step=2), [fused_stream(model, graph=graph) for _ in range(2)]
    first, second, third = groups(model, 3)
    steps = [([first, second], [True, True]), ([second, first], [False, True]), ([third, third], [False, False])]
    for parts, keyframe in steps:
        found = rig.step(torch.cat(parts), keyframe=keyframe)
        for slot, stream in enumerate(alone):
            wanted = stream.step(parts[slot], keyframe=keyframe[slot : slot + 1])
            assert relative(found.latent[slot], wanted.latent[0]) < 5e-3


def test_models_without_a_fused_form_say_why():
    assert "image model" in find_fusing_obstacle(build(PRESETS["nano-p"]))
    assert "float32" in find_fusing_obstacle(build(PRESETS["nano"]))
    with pytest.raises(ValueError, match="no fused form"):
        fuse_model(build(PRESETS["nano"]))
