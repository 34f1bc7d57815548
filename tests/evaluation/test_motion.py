"""Flicker, group edges and the grid on clips whose motion and faults are known."""

import numpy as np
import pytest
import torch

from streamtok.evaluation.motion import flicker_summary, flow_to_previous, grid_visibility, warp, warping_error
from tests.kit.pictures import scene


def as_clip(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255


def still(frames: int = 9) -> torch.Tensor:
    return as_clip(scene(1)).clamp(0.2, 0.8).expand(frames, -1, -1, -1)


def test_warp_reads_each_pixel_at_its_place_plus_flow():
    image = np.random.default_rng(0).uniform(0, 255, (8, 12, 3)).astype(np.float32)
    flow = np.zeros((8, 12, 2), np.float32)
    flow[..., 0] = 3
    moved = warp(image, flow)
    assert np.allclose(moved[:, :9], image[:, 3:])
    assert np.allclose(moved[:, 9:], image[:, -1:])


def test_flow_follows_a_known_slide():
    frames = scene(3).astype(np.float32)
    back, visible = flow_to_previous(frames[0], frames[1])
    inner = back[16:-16, 16:-16]
    assert np.abs(inner[..., 0] + 2).mean() < 0.25
    assert np.abs(inner[..., 1]).mean() < 0.25
    assert visible[16:-16, 16:-16].mean() > 0.9


def test_alternating_brightness_is_the_flicker():
    original = still()
    sign = torch.tensor([1.0, -1.0]).repeat(5)[:9].view(-1, 1, 1, 1)
    errors = warping_error(original, original + sign * 5 / 255)
    assert errors.shape == (3, 8)
    assert errors[0] == pytest.approx(10, abs=0.05)
    assert errors[1] == pytest.approx(0, abs=1e-3)
    assert errors[2] == pytest.approx(10, abs=0.05)


def test_motion_is_not_flicker():
    clip = as_clip(scene(5))
    rebuilt, original, error = warping_error(clip, clip).mean(1)
    plain = ((clip[1:] - clip[:-1]).abs().mean() * 255).item()
    assert rebuilt == original < plain / 3
    assert error == 0


def test_a_steady_error_does_not_flicker_where_a_changing_one_of_equal_size_does():
    original = still()
    noise = 0.05 * torch.randn_like(original[:1])
    steady = flicker_summary(original, original + noise, group=4)
    changing = flicker_summary(original, original + 0.05 * torch.randn_like(original), group=4)
    assert steady["flicker"] < 1e-3 < 5 < changing["flicker"]


def test_group_edges_that_pulse_are_seen():
    original = still(17)
    group = torch.tensor([0] + [1 + t // 4 for t in range(16)])
    level = torch.tensor([1.0, -1.0]).repeat(4)[group].view(-1, 1, 1, 1)
    small = 0.002 * torch.randn_like(original)
    assert flicker_summary(original, original + level * 0.03 + small, group=4)["group_edge_pulse"] > 3
    assert flicker_summary(original, original + small, group=4)["group_edge_pulse"] == pytest.approx(1, abs=0.05)


def test_a_single_frame_has_no_flicker():
    assert flicker_summary(still(1), still(1), group=4) == {}


def test_grid_visibility_tells_a_grid_from_noise():
    original = torch.full((2, 3, 64, 96), 0.5)
    blocks = torch.randn(2, 1, 8, 12).repeat_interleave(8, 2).repeat_interleave(8, 3)
    noise = torch.randn_like(original)
    assert grid_visibility(original, original) == 1.0
    assert grid_visibility(original, original + 0.02 * noise) < 1.2
    assert grid_visibility(original, original + 0.02 * blocks) == pytest.approx(8, abs=0.01)
    assert grid_visibility(original, original + 0.02 * blocks + 0.004 * noise) > 1.5


def test_grid_visibility_sees_rows_as_well_as_columns():
    original = torch.full((1, 3, 64, 96), 0.5)
    rows = torch.randn(1, 1, 8, 1).repeat_interleave(8, 2).expand(-1, 3, -1, 96)
    assert grid_visibility(original, original + 0.02 * rows) == pytest.approx(8, abs=0.01)
