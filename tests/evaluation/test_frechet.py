"""Frechet distances against closed forms and another way to take the square root."""

from pathlib import Path

import numpy as np
import pytest
import torch

from streamtok.evaluation.frechet import FeaturePairs, frechet_distance
from tests.kit.networks import MeanColour, VideoMoments, archive


def test_general_case_against_eigenvalues_of_the_product():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(50, 5)) @ rng.normal(size=(5, 5)), rng.normal(size=(60, 5)) @ rng.normal(size=(5, 5)) + 1
    cov = [np.cov(x, rowvar=False) for x in (a, b)]
    roots = np.sqrt(np.linalg.eigvals(cov[0] @ cov[1]).real.clip(min=0)).sum()
    mean = a.mean(0) - b.mean(0)
    assert frechet_distance(a, b) == pytest.approx(mean @ mean + np.trace(cov[0] + cov[1]) - 2 * roots, rel=1e-6)


def test_fewer_samples_than_features_still_give_a_number():
    rng = np.random.default_rng(2)
    a = rng.normal(size=(4, 64))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, rng.normal(size=(4, 64))) > 1


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"N of 2 or more"):
        frechet_distance(np.zeros((1, 3)), np.zeros((4, 3)))


def test_picture_features_come_from_uint8_pixels(tmp_path: Path):
    pairs = FeaturePairs(archive(MeanColour(), tmp_path / "net.pt"), video=False)
    frames = torch.rand(6, 3, 16, 16)
    assert pairs.distance() is None
    assert pairs.add(frames, frames)
    assert pairs.distance() == pytest.approx(0, abs=1e-6)
    assert pairs.original[0].shape == (6, 6)
    assert pairs.original[0][:, :3] == pytest.approx(255 * frames.mean((2, 3)).numpy(), abs=0.2)


def test_video_features_are_taken_as_published_scores_take_them(tmp_path: Path):
    pairs = FeaturePairs(archive(VideoMoments(), tmp_path / "net.pt"), video=True)
    assert not pairs.add(torch.rand(9, 3, 32, 48), torch.rand(9, 3, 32, 48))  # too short to pool over
    for level in (0.25, 0.75):
        clip = torch.full((12, 3, 32, 48), level)
        assert pairs.add(clip, clip)
    assert pairs.original[0][0].tolist() == pytest.approx([-0.5] * 6 + [1, 3, 12, 224, 224])
    assert pairs.distance() == pytest.approx(0, abs=1e-6)


def test_a_file_that_is_no_archive_is_named(tmp_path: Path):
    (tmp_path / "net.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"net\.pt is not a TorchScript archive"):
        FeaturePairs(tmp_path / "net.pt", video=True)
