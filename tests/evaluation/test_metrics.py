"""Picture metrics against numbers worked out by hand and against pytorch-msssim."""

import math

import pytest
import pytorch_msssim
import torch

from streamtok.evaluation.layouts import as_unit
from streamtok.evaluation.metrics import frame_mse, mean_over_frames, ms_ssim, psnr, ssim
from streamtok.measures import psnr_from_mse


def pair(height: int, width: int, frames: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    a = torch.nn.functional.interpolate(torch.rand(frames, 3, 12, 12), size=(height, width), mode="bicubic").clamp(0, 1)
    return a, (a + 0.05 * torch.randn_like(a)).clamp(0, 1)


def test_psnr_averages_squared_error_over_the_clip_and_not_decibels_over_frames():
    a = torch.zeros(2, 3, 8, 8)
    b = torch.stack([torch.full((3, 8, 8), 0.1), torch.full((3, 8, 8), 0.3)])
    assert frame_mse(a, b).tolist() == pytest.approx([0.01, 0.09], abs=1e-6)
    assert psnr(a, b) == pytest.approx(-10 * math.log10(0.05), abs=1e-4)


def test_identical_pictures_give_a_finite_ceiling():
    a = torch.rand(1, 3, 8, 8)
    assert psnr(a, a) == 100.0
    assert psnr_from_mse(1e-12) == 100.0
    assert psnr_from_mse(1e-9) == pytest.approx(90.0)


def test_as_unit_maps_both_ranges_to_the_same_values():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.allclose(as_unit(pixels), as_unit(pixels.float() / 127.5 - 1), atol=1e-6)
    assert as_unit(torch.tensor([-3.0, 2.0])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("size", [(11, 11), (40, 57), (96, 64)])
def test_ssim_equals_an_independent_implementation(size: tuple[int, int]):
    a, b = pair(*size)
    expected = pytorch_msssim.ssim(a, b, data_range=1.0, size_average=False)
    assert torch.allclose(ssim(a, b), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(161, 176), (179, 203)])
def test_ms_ssim_equals_an_independent_implementation(size: tuple[int, int]):
    a, b = pair(*size, frames=2)
    expected = pytorch_msssim.ms_ssim(a, b, data_range=1.0, size_average=False)
    assert torch.allclose(ms_ssim(a, b), expected, atol=1e-5)


def test_mean_ssim_does_not_depend_on_how_frames_are_taken():
    a, b = pair(24, 24, frames=11)
    assert mean_over_frames(ssim, a, b) == pytest.approx(ssim(a, b).mean().item(), abs=1e-6)


def test_sizes_that_do_not_fit_are_refused_with_the_numbers():
    with pytest.raises(ValueError, match=r"at least 161 pixels, got \(160, 200\)"):
        ms_ssim(torch.rand(1, 3, 160, 200), torch.rand(1, 3, 160, 200))
    with pytest.raises(ValueError, match=r"at least 11 pixels, got \(10, 20\)"):
        ssim(torch.rand(1, 3, 10, 20), torch.rand(1, 3, 10, 20))
    with pytest.raises(ValueError, match="equal shape"):
        psnr(torch.rand(1, 3, 8, 8), torch.rand(2, 3, 8, 8))
