"""Levels that are held: the same tokens by every path, state like all other state, and off by default."""

import pytest
import torch

from streamtok.evaluation.layouts import split_groups
from tests.kit.models import tiny, video

CLIP = video(17, batch=2)


def digits_of(model, indices: torch.Tensor) -> torch.Tensor:
    """Indices (B, n, h, w) -> whole levels (B, C, n, h, w), around 0."""
    levels = torch.tensor(model.config.levels).view(-1, 1, 1, 1)
    basis = torch.cumprod(torch.tensor([1, *model.config.levels[:-1]]), 0).view(-1, 1, 1, 1)
    return indices[:, None] // basis % levels - levels // 2


@pytest.mark.parametrize("name", ["slim", "slim-p"])
def test_a_level_stays_while_the_latent_is_within_the_margin_of_it(name):
    model = tiny(name, deterministic=True)
    plain, held = model.encode(CLIP), model.encode(CLIP, hold=0.3)
    assert torch.equal(model.encode(CLIP, hold=1e-12).indices, plain.indices)
    digits = digits_of(model, held.indices)
    bounded = torch.stack([model.quantizer.bound(step) for step in held.latent.unbind(2)], 2)
    rounded, before = bounded.round(), digits[:, :, :-1]
    assert torch.equal(digits[:, :, 0], rounded[:, :, 0].long())  # a keyframe holds nothing
    kept = (bounded[:, :, 1:] - before).abs() < 0.8
    assert torch.equal(digits[:, :, 1:], torch.where(kept, before, rounded[:, :, 1:].long()))
    assert (kept & (before != rounded[:, :, 1:])).any()


@pytest.mark.parametrize("name", ["slim", "slim-p"])
def test_steps_batches_and_slots_give_what_the_whole_clip_gives(name):
    model = tiny(name, deterministic=True)
    expected = model.encode(CLIP, hold=0.25).indices
    stream = model.stream(2, 16, 32)
    stream.hold(0.25)
    parts = [stream.step(part).indices for part in split_groups(CLIP, model.group)]
    assert torch.equal(torch.cat(parts, 1), expected)
    anew = [stream.step(part).indices for part in split_groups(CLIP, model.group)]  # at a keyframe, without a reset
    assert torch.equal(torch.cat(anew, 1), expected)
    mixed = model.stream(2, 16, 32)
    mixed.hold(0.25, [1])
    both = torch.cat([mixed.step(part).indices for part in split_groups(CLIP, model.group)], 1)
    assert torch.equal(both[0], model.encode(CLIP).indices[0])
    assert torch.equal(both[1], expected[1])


def test_a_snapshot_goes_on_and_a_reset_keeps_the_margin():
    model, parts = tiny("slim", deterministic=True), split_groups(CLIP[:1], 4)
    expected = model.encode(CLIP[:1], hold=0.25).indices
    first, second = (model.stream(1, 16, 32) for _ in range(2))
    for stream in (first, second):
        stream.hold(0.25)
    for part in parts[:3]:
        first.step(part)
    second.restore(first.snapshot())
    assert torch.equal(second.step(parts[3]).indices[:, 0], expected[:, 3])
    second.reset()
    assert torch.equal(torch.cat([second.step(part).indices for part in parts], 1), expected)
    plain = model.stream(1, 16, 32)
    plain.step(parts[0])
    with pytest.raises(ValueError, match="hold: None in the snapshot, True here"):
        second.restore(plain.snapshot())
    with pytest.raises(ValueError, match="has begun without hold"):
        plain.hold(0.25)


@pytest.mark.parametrize("name", ["cv4x8x8", "di8x8", "slim-r"])
def test_what_has_no_levels_to_hold_says_so(name):
    with pytest.raises(ValueError, match="hold is for video tokenizers of plain FSQ"):
        tiny(name).stream(1, 16, 32).hold(0.25)


@pytest.mark.parametrize("margin", [-0.1, 1.5, float("nan")])
def test_other_margins_are_refused(margin):
    with pytest.raises(ValueError, match=r"expected 0 \(off\) to 1, in levels"):
        tiny("slim").encode(CLIP, hold=margin)
