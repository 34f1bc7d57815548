"""Bad input is refused with the value, what was expected, and what to do."""

import pytest
import torch

from tests.kit.models import tiny, video

MODEL = tiny("dv4x8x8", dtype=torch.float32)


def stream():
    return MODEL.stream(slots=2, height=16, width=32)


@pytest.mark.parametrize(
    ("frames", "error", "words"),
    [
        (torch.zeros(1, 3, 6, 16, 16), ValueError, "6 frames, expected 1 \\+ k \\* 4.*cut it to 5"),
        (torch.zeros(1, 3, 5, 16, 20), ValueError, "16x20.*multiples of 8.*16x24"),
        (torch.zeros(1, 4, 5, 16, 16), ValueError, r"\(1, 4, 5, 16, 16\), expected \(B, 3"),
        (torch.zeros(3, 5, 16), ValueError, r"\(3, 5, 16\)"),
        (torch.zeros(1, 3, 1, 16, 16, dtype=torch.int32), TypeError, "int32, expected uint8"),
        ([[1]], TypeError, "list, expected a torch.Tensor"),
        (torch.full((1, 3, 1, 16, 16), torch.nan), ValueError, r"rows \[0\] is not finite .*for NaN$"),
        (torch.full((1, 3, 1, 16, 16), 255.0), ValueError, r"from 255 to 255, expected \[-1, 1\]"),
        (torch.zeros(1, 3, 1, 0, 16), ValueError, "axis 3 is 0"),
        (torch.zeros(0, 3, 1, 16, 16), ValueError, r"shape \(0, .*: B is 0, expected 1 or more"),
    ],
)
def test_encode_refuses(frames, error, words):
    with pytest.raises(error, match=words):
        MODEL.encode(frames)


@pytest.mark.parametrize(
    ("tokens", "error", "words"),
    [
        (torch.full((1, 1, 2, 2), 64_000), ValueError, r"index 64000 at \[0, 0, 0, 0\].*0..63999"),
        (torch.full((1, 1, 2, 2), -1), ValueError, "index -1"),
        (torch.zeros(1, 1, 2, 2), TypeError, "float32, expected an integer"),
        (torch.zeros(2, 2, dtype=torch.int32), ValueError, r"\(2, 2\)"),
        (torch.zeros(0, 1, 2, 2, dtype=torch.int32), ValueError, "B is 0"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.bool), TypeError, "bool"),
    ],
)
def test_decode_refuses(tokens, error, words):
    with pytest.raises(error, match=words):
        MODEL.decode(tokens)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32])
def test_decoders_take_any_integer_dtype(dtype):
    grids = torch.randint(0, 200, (2, 1, 2, 4)).to(dtype)
    frames = MODEL.decode(grids)
    stepped = MODEL.decode_stream(slots=2, grid_height=2, grid_width=4).step(grids, active=[True, True])
    torch.testing.assert_close(stepped[:, :, -1:], frames, rtol=0, atol=1e-4)
    MODEL.decode_stream(slots=2, grid_height=2, grid_width=4).step(grids, active=[True, False])


def test_a_latent_that_is_not_finite_is_never_decoded():
    model = tiny("cv4x8x8", dtype=torch.float32)
    with pytest.raises(ValueError, match="NaN"):
        model.decode(torch.full((1, 4, 1, 2, 2), torch.nan))
    with pytest.raises(TypeError, match="continuous"):
        model.decode(torch.zeros(1, 4, 1, 2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"expected \(B, 4"):
        model.decode(torch.zeros(1, 5, 1, 2, 2))
    with pytest.raises(ValueError, match="B is 0"):
        model.decode(torch.zeros(0, 4, 1, 2, 2))


def test_a_fresh_slot_needs_a_keyframe():
    with pytest.raises(ValueError, match=r"slots \[1\] are fresh.*keyframe"):
        stream().step(video(4, batch=2, dtype=torch.float32), keyframe=[True, False])


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (torch.zeros(2, 3, 3, 16, 32), "expected .*2, 3, 1, 16, 32.* or .*2, 3, 4, 16, 32"),
        (torch.zeros(1, 3, 4, 16, 32), "shape"),
        (torch.zeros(2, 3, 4, 32, 16), "shape"),
    ],
)
def test_a_stream_refuses_other_shapes(frames, words):
    with pytest.raises(ValueError, match=words):
        stream().step(frames)


def test_a_stream_looks_at_the_range_of_active_slots_only():
    frames = torch.zeros(2, 3, 1, 16, 32)
    frames[1] = 200
    stream().step(frames, active=[True, False])
    with pytest.raises(ValueError, match="from 0 to 200"):
        stream().step(frames)


def test_training_refuses_what_is_no_clip():
    with pytest.raises(ValueError, match=r"\(1, 3, 4, 16, 16\), expected .*, T = 1 \+ k \* 4"):
        MODEL(torch.zeros(1, 3, 4, 16, 16))
    with pytest.raises(ValueError, match=r"T = k \* 4"):
        MODEL(torch.zeros(1, 3, 5, 16, 16), state=MODEL(torch.zeros(1, 3, 1, 16, 16)).state)
    with pytest.raises(TypeError, match="int32"):
        MODEL(torch.zeros(1, 3, 1, 16, 16, dtype=torch.int32))


def test_masks_and_slots_are_checked():
    frames = torch.zeros(2, 3, 1, 16, 32)
    for mask in ([True], [1, 0], torch.ones(3, dtype=torch.bool)):
        with pytest.raises(ValueError, match="2 booleans"):
            stream().step(frames, active=mask)
    with pytest.raises(ValueError, match=r"\[2\], expected distinct numbers in 0..1"):
        stream().reset([2])
    with pytest.raises(ValueError, match="slots is 0"):
        MODEL.stream(slots=0, height=16, width=16)
    with pytest.raises(ValueError, match="15x16"):
        MODEL.stream(slots=1, height=15, width=16)
    with pytest.raises(ValueError, match="context is 0"):
        MODEL.encode(torch.zeros(1, 3, 1, 16, 16), context=0)
    with pytest.raises(ValueError, match="expected 2 slots of one"):
        MODEL.decode_stream(slots=2, grid_height=2, grid_width=2).step(torch.zeros(2, 1, 2, 3, dtype=torch.int32))
    with pytest.raises(TypeError, match="int8"):
        MODEL.stream(slots=1, height=16, width=16, dtype=torch.int8)


def test_masks_may_be_tensors_arrays_or_lists():
    frames = torch.zeros(2, 3, 1, 16, 32)
    one = stream()
    for mask in (torch.tensor([True, False]), torch.tensor([True, False]).numpy(), [True, False], (True, False)):
        one.step(frames, active=mask)
    assert one.started == [True, False]
