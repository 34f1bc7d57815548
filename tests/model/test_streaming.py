"""Streaming is the same function as the whole clip: any split, any slot, any start, and nothing of the future."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtok.evaluation.layouts import split_groups
from tests.kit.models import CONFIGS, IMAGES, decode_by_steps, encode_by_steps, tiny, video

EXACT = {"rtol": 0, "atol": 1e-10}


@pytest.mark.parametrize("name", CONFIGS)
def test_steps_equal_the_whole_clip(name):
    model = tiny(name)
    clip = video(1 + 3 * model.group, batch=2)
    whole = model.encode(clip)
    latent, grids = encode_by_steps(model, clip)
    torch.testing.assert_close(latent, whole.latent, **EXACT)
    if model.config.discrete:
        assert torch.equal(grids, whole.indices)
    torch.testing.assert_close(decode_by_steps(model, grids), model.decode(whole.tokens), **EXACT)
    assert model.decode(whole.tokens).shape == clip.shape


@settings(max_examples=20)
@given(st.data())
def test_any_split_carried_through_training_calls_equals_the_whole(data):
    """`forward` cuts a clip anywhere between groups; sizes, batch, context and cuts are drawn."""
    name = data.draw(st.sampled_from(["dv4x8x8", "dv8x8x8", "dv4x8x8-attention", "slim-p"]))
    model = tiny(name, context=data.draw(st.integers(1, 5)))
    count = data.draw(st.integers(2, 5))
    size = [data.draw(st.integers(1, 3)) * 8 for _ in range(2)]
    clip = video(1 + count * model.group, *size, batch=data.draw(st.integers(1, 2)))
    cut = 1 + model.group * data.draw(st.integers(1, count - 1))
    with torch.no_grad():
        whole = model(clip)
        first = model(clip[:, :, :cut])
        second = model(clip[:, :, cut:], first.state)
    joined = torch.cat([first.latent, second.latent], 2)
    torch.testing.assert_close(joined, whole.latent, **EXACT)
    frames = torch.cat([first.reconstruction, second.reconstruction], 2)
    torch.testing.assert_close(frames, whole.reconstruction, **EXACT)
    torch.testing.assert_close(encode_by_steps(model, clip)[0], whole.latent, **EXACT)


@settings(max_examples=15)
@given(st.data())
def test_slots_start_run_and_reset_as_if_alone(data):
    """Slots that start at different times, pause and restart equal separate runs of one slot each."""
    model = tiny(data.draw(st.sampled_from(["dv4x8x8", "dv8x16x16", "slim-p"])), context=3)
    slots, steps, (height, width) = 3, 6, (16, 32)
    shared = model.stream(slots=slots, height=height, width=width)
    alone = [model.stream(slots=1, height=height, width=width) for _ in range(slots)]
    fresh = [True] * slots
    for _ in range(steps):
        active = data.draw(st.lists(st.booleans(), min_size=slots, max_size=slots))
        marks = [(new or data.draw(st.booleans())) and on for new, on in zip(fresh, active, strict=True)]
        frames = video(model.group, height, width, batch=slots)
        out = shared.step(frames, active=active, keyframe=marks)
        for slot in (i for i in range(slots) if active[i]):
            fresh[slot] = False
            want = alone[slot].step(frames[slot : slot + 1], keyframe=[marks[slot]])
            torch.testing.assert_close(out.latent[slot : slot + 1], want.latent, **EXACT)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_future_leaves_the_past_bit_identical(name):
    model = tiny(name)
    clip = video(1 + 3 * model.group)
    changed = clip.clone()
    changed[:, :, -1] += 0.3
    before, after = model.encode(clip), model.encode(changed)
    assert torch.equal(before.latent[:, :, :-1], after.latent[:, :, :-1])
    assert not torch.equal(before.latent[:, :, -1], after.latent[:, :, -1])
    grids = before.tokens
    other = grids.clone()
    other[..., -1, :, :] = after.tokens[..., 0, :, :]
    past = slice(0, 1 + 2 * model.group)
    assert torch.equal(model.decode(grids)[:, :, past], model.decode(other)[:, :, past])


@pytest.mark.parametrize("name", ["dv4x8x8", "dv8x8x8", "dv8x16x16", "slim"])
def test_a_still_scene_gives_the_same_latent_at_every_group(name):
    model = tiny(name)
    still = video(1).expand(-1, -1, 1 + 4 * model.group, -1, -1)
    latent = model.encode(still).latent
    torch.testing.assert_close(latent, latent[:, :, :1].expand_as(latent), **EXACT)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_image_encodes_as_the_first_frame_of_a_video(name):
    model = tiny(name)
    clip = video(1 + 2 * model.group)
    image = model.encode(clip[:, :, 0])
    torch.testing.assert_close(image.latent, model.encode(clip).latent[:, :, 0], **EXACT)
    decoded = model.decode(image.tokens)
    assert decoded.shape == clip[:, :, 0].shape
    torch.testing.assert_close(decoded, model.decode(model.encode(clip).tokens)[:, :, 0], **EXACT)


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_model_streams_images(name):
    model = tiny(name)
    frames = video(1, 32, 32, batch=2)
    out = model.stream(slots=2, height=32, width=32).step(frames)
    whole = model.encode(frames[:, :, 0])
    torch.testing.assert_close(out.latent[:, :, 0], whole.latent, **EXACT)
    h, w = whole.latent.shape[-2:]
    back = model.decode_stream(slots=2, grid_height=h, grid_width=w).step(out.tokens)
    torch.testing.assert_close(back[:, :, 0], model.decode(whole.tokens), **EXACT)


@pytest.mark.parametrize("name", ["dv4x8x8", "dv8x8x8", "slim-p"])
def test_uint8_frames_equal_their_float_values(name):
    model = tiny(name)
    pixels = torch.randint(0, 256, (1, 3, 1 + model.group, 16, 16), dtype=torch.uint8)
    torch.testing.assert_close(model.encode(pixels).latent, model.encode(pixels.double() / 127.5 - 1).latent, **EXACT)


@pytest.mark.parametrize("steps", [12, pytest.param(1000, marks=pytest.mark.slow)])
def test_beyond_the_context_memory_is_flat_and_attention_sees_the_last_steps(steps):
    """The ring wraps; its result equals a whole clip whose attention is restricted to the last `context` steps."""
    model, context = tiny("dv4x8x8"), 3
    clip = video(1 + 4 * (steps - 1), 8, 8)
    stream = model.stream(slots=1, height=8, width=8, context=context)
    size, latents = stream.nbytes, []
    places = {name: buffer.data_ptr() for name, buffer in stream.buffers.items()}
    for group in split_groups(clip, 4):
        latents.append(stream.step(group).latent)
    assert stream.nbytes == size
    assert {name: buffer.data_ptr() for name, buffer in stream.buffers.items()} == places
    tail = slice(-min(steps, 40), None)
    want = model.encode(clip, context=context).latent if steps < 100 else _banded_tail(model, clip, context)
    torch.testing.assert_close(torch.cat(latents, 2)[:, :, tail], want[:, :, tail], **EXACT)
    if steps < 100:
        assert not torch.allclose(want, model.encode(clip, context=None).latent, atol=1e-6)


def test_context_means_one_thing_everywhere():
    model, clip = tiny("dv4x8x8", context=2), video(17, 8, 8)
    unbounded, own = (model.encode(clip, context=context) for context in ("all", "model"))
    assert torch.equal(unbounded.latent, model.encode(clip, context=None).latent)
    assert torch.equal(own.latent, model.encode(clip, context=2).latent)
    assert not torch.equal(own.latent, unbounded.latent)
    shown = model.decode(own.indices, context="all")
    assert torch.equal(shown, model.decode(own.indices, context=5))
    assert model.stream(1, 8, 8).context == model.stream(1, 8, 8, context="model").context == 2
    for open_stream, size in ((model.stream, (8, 8)), (model.decode_stream, (1, 1))):
        with pytest.raises(ValueError, match="a stream keeps a fixed number of latent steps"):
            open_stream(1, *size, context="all")
    with pytest.raises(ValueError, match=r"context is 'modell', expected at least 1 latent step"):
        model.encode(clip, context="modell")


def _banded_tail(model, clip, context):
    """The latent of a long clip through training calls of 50 groups each, with carried state."""
    latents, state = [], None
    with torch.no_grad():
        model.config.__dict__["context"] = context
        for part in [clip[:, :, :201], *clip[:, :, 201:].split(200, 2)]:
            out = model(part, state)
            latents, state = [*latents, out.latent], out.state
    return torch.cat(latents, 2)


@pytest.mark.parametrize("name", ["slim", "dv4x8x8", "slim-p"])
def test_float32_steps_stay_close_to_the_whole_clip(name):
    model = tiny(name, dtype=torch.float32)
    clip = video(17, 32, 48, dtype=torch.float32)
    whole = model.encode(clip)
    latent, _ = encode_by_steps(model, clip)
    torch.testing.assert_close(latent, whole.latent, rtol=0, atol=1e-4)
    want = model.decode(whole.indices)
    got = decode_by_steps(model, whole.indices)
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()
