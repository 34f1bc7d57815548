"""On a GPU: golden vectors, captured steps against eager ones, and what happens when memory or the capture fails."""

import gc

import pytest
import torch

from streamtok.config import PRESETS
from streamtok.engine import EngineConfiguration, EngineError
from streamtok.engine.gpu.graph import CapturedStep
from streamtok.engine.optimized import apply_configuration
from streamtok.engine.precision import compare_tokens
from streamtok.model import build
from streamtok.weights.golden import reference_clip
from tests.kit.golden import load

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SIZE = (64, 96)


@pytest.fixture(scope="module", params=["nano", "nano-p"])
def tok(request):
    torch.manual_seed(0)
    return build(PRESETS[request.param])


def engine(tok, precision="float32", **options):
    return apply_configuration(tok, EngineConfiguration(device="cuda", precision=precision, graph=True, **options))


def groups(tok, count, slots=1):
    scenes = torch.cat([reference_clip(count * tok.group, *SIZE, start=seed) for seed in range(slots)])
    return list(scenes.to("cuda").split(tok.group, 2))


@pytest.mark.parametrize("name", ["cv8x8x8_small", "dv4x8x8_small"])
def test_golden_vectors_on_the_gpu(name):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model, clip, want = load(name)
    out = model.cast(device="cuda").encode(clip, context=None)
    torch.testing.assert_close(out.latent.cpu(), want["latent"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_graph_equals_eager(tok, precision):
    fast = engine(tok, precision)
    graph, eager = fast.stream(1, *SIZE), tok.stream(1, *SIZE, dtype=getattr(torch, precision), device="cuda")
    for i, group in enumerate(groups(tok, 5)):
        found, wanted = (stream.step(group, keyframe=[i in (0, 3)]) for stream in (graph, eager))
        assert torch.equal(found.latent, wanted.latent)
        assert torch.equal(found.indices, wanted.indices)


@pytest.mark.parametrize("slots_per_step", [1, 3])
def test_slots_under_graphs_are_independent(tok, slots_per_step):
    fast = engine(tok, slots_per_step=slots_per_step)
    rig, alone = fast.stream(3, *SIZE), [fast.stream(1, *SIZE) for _ in range(3)]
    running = [[True] * 3, [True, False, True], [False, True, True], [True] * 3]
    for i, group in enumerate(groups(tok, 4, slots=3)):
        marks = [i == 0, i in (0, 2), i in (0, 3)]
        found = rig.step(group, active=running[i], keyframe=marks)
        for slot, stream in enumerate(alone):
            if running[i][slot]:
                wanted = stream.step(group[slot : slot + 1], keyframe=marks[slot : slot + 1])
                # libraries may choose other algorithms for three slots than for one
                assert compare_tokens(found.indices[slot : slot + 1], wanted.indices) > 0.98
                assert compare_tokens(found.latent[slot : slot + 1], wanted.latent) > 0.98


def test_snapshot_restores_under_graphs(tok):
    fast = engine(tok)
    stream, resumed = fast.stream(1, *SIZE), fast.stream(1, *SIZE)
    *first, last = groups(tok, 4)
    for i, group in enumerate(first):
        stream.step(group, keyframe=[i == 0])
    resumed.step(last, keyframe=[True])
    resumed.restore(stream.snapshot())
    assert torch.equal(resumed.step(last).latent, stream.step(last).latent)


def test_outputs_belong_to_the_caller_and_memory_is_flat(tok):
    stream = engine(tok).stream(1, *SIZE)
    first, second = groups(tok, 2)
    out = stream.step(first, keyframe=[True])
    kept = out.latent.clone()
    stream.step(second)
    before = torch.cuda.memory_allocated()
    for _ in range(200):
        stream.step(second)
    assert torch.cuda.memory_allocated() == before
    assert torch.equal(out.latent, kept)


def test_decoding_under_a_graph_equals_eager(tok):
    fast = engine(tok)
    stream = fast.stream(1, *SIZE)
    graph = fast.decode_stream(1, SIZE[0] // 8, SIZE[1] // 8)
    eager = tok.decode_stream(1, SIZE[0] // 8, SIZE[1] // 8, device="cuda")
    for i, group in enumerate(groups(tok, 3)):
        tokens = stream.step(group, keyframe=[i == 0]).indices
        assert torch.equal(graph.step(tokens), eager.step(tokens))


def test_too_many_slots_say_what_was_needed(tok):
    with pytest.raises(EngineError, match=r"slots at 1080x1920 needs .* GiB.*lower the number of slots"):
        engine(tok).stream(4000, 1080, 1920)


def test_a_step_that_cannot_be_captured_says_so():
    def step(frames, active, keyframe):
        return frames * float(frames.sum()), active

    frames = torch.zeros(1, 3, device="cuda")
    with pytest.raises(EngineError, match="could not be captured"):
        CapturedStep(step, frames)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    later = CapturedStep(lambda frames, active, keyframe: (frames + 1, active), frames)
    assert later(frames, True, False)[0].tolist() == [[1, 1, 1]]


def test_streams_share_memory_with_those_that_are_gone(tok):
    fast, (first, *_) = engine(tok), groups(tok, 1)
    wanted = None
    for _ in range(3):
        found = fast.stream(1, *SIZE).step(first, keyframe=[True]).latent
        gc.collect()  # the stream and its graph
        torch.cuda.empty_cache()
        assert wanted is None or torch.equal(found, wanted)
        wanted = found
