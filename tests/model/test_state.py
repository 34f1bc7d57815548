"""State is a plain value: reset, inactive slots, snapshots (also in another process), bad slots, sizes."""

import subprocess
import sys

import pytest
import torch

from streamtok import NonFiniteError
from streamtok.evaluation.layouts import split_groups
from streamtok.model import EncodeStream
from tests.kit.models import CONFIGS, tiny, video

KINDS = ["dv4x8x8", "dv8x8x8", "cv4x8x8", "slim-p"]


def warm_stream(model, slots=2, steps=3, **kwargs):
    """A stream that has taken a keyframe and some groups."""
    stream = model.stream(slots=slots, height=16, width=32, **kwargs)
    for group in split_groups(video(1 + steps * model.group, batch=slots), model.group):
        stream.step(group)
    return stream


def warm_twins(model):
    """Two streams in one state."""
    stream, twin = warm_stream(model), warm_stream(model)
    twin.restore(stream.snapshot())
    return stream, twin


@pytest.mark.parametrize("name", KINDS)
def test_a_reset_slot_equals_a_fresh_start_and_its_neighbour_goes_on(name):
    model = tiny(name)
    stream, twin = warm_twins(model)
    stream.reset([0])
    frames = video(model.group, batch=2)
    out = stream.step(frames, keyframe=[True, False])
    want = twin.step(frames, keyframe=[False, False])
    assert torch.equal(out.latent[1], want.latent[1])
    fresh = model.stream(slots=2, height=16, width=32).step(frames[:, :, :1])
    assert torch.equal(out.latent[0], fresh.latent[0])


@pytest.mark.parametrize("name", KINDS)
def test_a_keyframe_mark_equals_a_reset(name):
    model = tiny(name)
    marked, reset = warm_stream(model), warm_stream(model)
    reset.restore(marked.snapshot())
    reset.reset()
    for i in range(3):
        frames = video(model.group, batch=2)
        a = marked.step(frames, keyframe=[i == 0] * 2)
        b = reset.step(frames, keyframe=[i == 0] * 2)
        assert torch.equal(a.latent, b.latent)


@pytest.mark.parametrize("name", KINDS)
def test_an_inactive_slot_does_not_move_whatever_it_is_fed(name):
    model = tiny(name)
    stream = warm_stream(model)
    before = stream.snapshot([1])
    frames = video(model.group, batch=2)
    frames[1] = float("nan")
    stream.step(frames, active=[True, False])
    after = stream.snapshot([1])
    assert all(torch.equal(before["tensors"][k], after["tensors"][k]) for k in before["tensors"])


@pytest.mark.parametrize("name", KINDS)
def test_a_snapshot_resumes_bit_for_bit_and_can_move_to_another_slot(name):
    model = tiny(name)
    stream = warm_stream(model)
    snap = stream.snapshot([0])
    frames = video(model.group)
    want = stream.step(frames.expand(2, -1, -1, -1, -1)).latent[0]
    other = model.stream(slots=2, height=16, width=32)
    other.restore(snap, [1])
    assert other.started == [False, True]
    got = other.step(frames.expand(2, -1, -1, -1, -1), active=[False, True])
    assert torch.equal(got.latent[1], want)


def test_a_snapshot_resumes_in_another_process(tmp_path):
    """Saved as plain tensors, read without unpickling code, and the next latent is the same to the bit."""
    model = tiny("dv8x8x8", dtype=torch.float32)
    stream = warm_stream(model, slots=1)
    frames = video(model.group, dtype=torch.float32)
    torch.save({"snap": stream.snapshot(), "frames": frames, "weights": model.state_dict()}, tmp_path / "all.pt")
    script = (
        "import sys, torch\nfrom tests.kit.models import tiny\ntorch.set_num_threads(int(sys.argv[2]))\n"
        "kept = torch.load(sys.argv[1] + '/all.pt', weights_only=True)\n"
        "model = tiny('dv8x8x8', dtype=torch.float32); model.load_state_dict(kept['weights'])\n"
        "stream = model.stream(slots=1, height=16, width=32); stream.restore(kept['snap'])\n"
        "torch.save(stream.step(kept['frames']).latent, sys.argv[1] + '/out.pt')\n"
    )
    threads = str(torch.get_num_threads())
    subprocess.run([sys.executable, "-c", script, str(tmp_path), threads], check=True, timeout=200)
    want = stream.step(frames).latent
    assert torch.equal(torch.load(tmp_path / "out.pt", weights_only=True), want)


def test_a_snapshot_of_something_else_says_what_differs():
    snap = warm_stream(tiny("dv4x8x8")).snapshot()
    with pytest.raises(ValueError, match=r"size: \[16, 32\] in the snapshot, \[16, 16\] here"):
        tiny("dv4x8x8").stream(slots=2, height=16, width=16).restore(snap)
    with pytest.raises(ValueError, match="fingerprint"):
        warm_stream(tiny("dv8x8x8")).restore(snap)


@pytest.mark.parametrize("name", KINDS)
def test_a_bad_slot_leaves_the_others_running(name):
    model = tiny(name)
    stream, twin = warm_twins(model)
    good = video(model.group, batch=2)
    bad = good.clone()
    bad[0, :, 0, 3, 5] = float("nan")
    want = twin.step(good)
    with pytest.raises(NonFiniteError, match=r"slots \[0\]") as raised:
        stream.step(bad)
    assert raised.value.slots == [0]
    assert torch.equal(raised.value.out.latent[1], want.latent[1])
    # Slot 0 did not advance: given the good group now, it gives what it would have given.
    again = stream.step(good, active=[True, False])
    assert torch.equal(again.latent[0], want.latent[0])
    stream.reset([0])
    assert torch.isfinite(stream.step(good, keyframe=[True, False]).latent).all()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_size_of_a_state_is_known_before_it_is_allocated(name):
    model = tiny(name)
    stream = model.stream(slots=3, height=16, width=32, context=5)
    assert EncodeStream.state_bytes(model, 3, (16, 32), 5) == stream.nbytes > 0


def test_returned_tensors_belong_to_the_caller():
    model = tiny("dv4x8x8")
    stream = warm_stream(model)
    out = stream.step(video(4, batch=2))
    kept = out.latent.clone(), out.indices.clone()
    stream.step(video(4, batch=2))
    assert torch.equal(out.latent, kept[0])
    assert torch.equal(out.indices, kept[1])


@pytest.mark.parametrize("name", KINDS)
def test_decoder_slots_reset_pause_and_resume(name):
    model = tiny(name)
    grids = model.encode(video(1 + 4 * model.group, batch=2)).tokens
    h, w = grids.shape[-2:]
    pieces = [grids[..., i : i + 1, :, :] for i in range(5)]
    stream = model.decode_stream(slots=2, grid_height=h, grid_width=w)
    for piece in pieces[:3]:
        stream.step(piece)
    snap = stream.snapshot()
    want = stream.step(pieces[3])
    stream.restore(snap)
    half = stream.step(pieces[3], active=[True, False])
    assert torch.equal(half[0], want[0])
    assert torch.equal(stream.step(pieces[3], active=[False, True])[1], want[1])
    restarted = stream.step(pieces[0], keyframe=[True, True])
    fresh = model.decode_stream(slots=2, grid_height=h, grid_width=w).step(pieces[0])
    assert torch.equal(restarted, fresh)


@pytest.mark.parametrize("name", KINDS)
def test_a_bad_keyframe_leaves_its_slot_fresh(name):
    model = tiny(name)
    stream, twin = warm_twins(model)
    good = video(model.group, batch=2)
    bad = torch.full_like(good, torch.nan)
    with pytest.raises(NonFiniteError, match=r"slots \[0, 1\]"):
        stream.step(bad, keyframe=[True, False])
    assert stream.started == [False, True]
    twin.reset([0])
    for marks in ([True, False], [False, False]):
        assert torch.equal(stream.step(good, keyframe=marks).latent, twin.step(good, keyframe=marks).latent)
