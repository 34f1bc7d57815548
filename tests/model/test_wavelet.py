"""The Haar transform: exact inverse, published band order, plain mean as the lowest band."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtok.model.functional import permute_rows
from streamtok.model.wavelet import haar, inverse_haar


@settings(max_examples=25)
@given(st.sampled_from([2, 4]), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 2))
def test_inverse_is_exact_for_pixels(patch, t, h, w, batch):
    """Pixel levels are small integers, so every sum is exact and equality is bit for bit."""
    video = torch.randint(0, 256, (batch, 3, t * patch, h * patch, w * patch)).float()
    assert torch.equal(inverse_haar(haar(video, patch), patch, batch), video)
    assert torch.equal(inverse_haar(haar(video, patch, "wh"), patch, batch, "wh"), video)


def test_lowest_band_is_the_mean_and_levels_divide_as_published():
    video = torch.rand(1, 3, 4, 8, 8, dtype=torch.float64)
    bands = haar(video, 4)
    mean = torch.nn.functional.avg_pool3d(video, 4)[0].transpose(0, 1)
    torch.testing.assert_close(bands[:, :3], mean)
    pairs = (video[:, :, 0::2] - video[:, :, 1::2]) / 2  # one level in time: half the difference, first minus second
    high = torch.nn.functional.avg_pool3d(pairs, (2, 4, 4))[0].transpose(0, 1)
    torch.testing.assert_close(bands[:, 3 * 4 : 3 * 5], high)  # level 1 high in time, all else low: band 4


@pytest.mark.parametrize(("axis", "band"), [("height", 1), ("width", 2)])
def test_image_bands_have_width_slower_than_height(axis, band):
    ramp = torch.tensor([1.0, -1.0])
    image = (ramp.view(2, 1) if axis == "height" else ramp.view(1, 2)).expand(2, 2).repeat(1, 3, 1, 1)
    bands = haar(image[:, :, None], 2, "wh")
    assert bands[0, :, 0, 0].nonzero().flatten().tolist() == [3 * band, 3 * band + 1, 3 * band + 2]
    video = image[:, :, None].expand(-1, -1, 2, -1, -1)
    still = haar(video, 2)[0, :, 0, 0].nonzero().flatten().tolist()
    assert still[0] == 3 * (2 if axis == "height" else 1)  # in video width is the fastest


def test_bands_that_do_not_vary_in_time_come_first_on_request():
    still = torch.randint(0, 256, (1, 3, 1, 8, 8)).double()
    bands = haar(still.expand(-1, -1, 4, -1, -1), 4, "=thw")
    assert torch.all(bands[:, 48:] == 0)
    torch.testing.assert_close(bands[:, :48], haar(still, 4, "hw"))
    torch.testing.assert_close(inverse_haar(bands, 4, 1, "=thw"), still.expand(-1, -1, 4, -1, -1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("patch", [2, 4])
def test_bits_do_not_depend_on_gradients_or_on_where_frames_lie(patch, dtype):
    """Without gradients, values are moved several at a time, which wants them aligned."""
    memory = torch.randn(1 + 3 * 4 * 8 * 16, dtype=dtype)
    for video in (memory[1:].view(1, 3, 4, 8, 16), memory[:-1].view(1, 3, 4, 16, 8).mT):
        bands = haar(video, patch)
        with torch.no_grad():
            assert torch.equal(haar(video, patch), bands)
            found = inverse_haar(bands, patch, 1)
        assert torch.equal(found, inverse_haar(bands, patch, 1))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32])
def test_rows_are_permuted_whatever_the_strides_of_axes_of_length_1(dtype):
    """PyTorch takes such axes for contiguous, as in a part of wider rows, or a grey picture with its channel moved."""
    memory = torch.arange(2 * 17).to(dtype)
    for rows in (
        memory.view(2, 17)[:1, :16].unsqueeze(1),
        memory[:32].view(2, 16, 1).permute(2, 0, 1),
        memory[:0].view(1, 0, 16),
    ):
        with torch.no_grad():
            assert torch.equal(permute_rows(rows, 1, 0, 2), rows.permute(1, 0, 2))


def test_a_transform_first_used_in_inference_mode_can_be_trained_through():
    axes = "wth"  # used nowhere else, so its matrix is made here
    with torch.inference_mode():
        haar(torch.rand(1, 3, 2, 2, 2), 2, axes)
    bands = torch.rand(1, 24, 1, 1, requires_grad=True)
    haar(inverse_haar(bands, 2, 1, axes), 2, axes).sum().backward()
    torch.testing.assert_close(bands.grad, torch.ones_like(bands))


def test_code_that_is_compiled_around_a_model_is_short():
    """A compiler follows every Python step: loops over bands and positions kept it busy for minutes."""
    sizes = []

    def counting(graph, inputs):
        sizes.append(len(graph.graph.nodes))
        return graph

    clip = torch.rand(1, 3, 2, 4, 4)
    bands = torch.compile(lambda x: haar(x, 2), backend=counting)(clip)
    torch.testing.assert_close(bands, haar(clip, 2))
    assert 0 < sum(sizes) < 60
