"""The LPIPS-style distance of a report: with a backbone file in VGG's layout, against its definition written out."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from streamtok.evaluation.dataset import Clip
from streamtok.evaluation.evaluate import reconstruct
from streamtok.evaluation.layouts import as_unit
from streamtok.evaluation.suite import SuiteOptions, run_suite
from streamtok.model.tokenizer import Tokenizer
from tests.kit.pictures import scene


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    """Two convolutions of a network in VGG's layout, with random weights."""
    weights = {}
    for number, (inputs, outputs) in {0: (3, 6), 2: (6, 8)}.items():
        weights[f"features.{number}.weight"] = 0.3 * torch.randn(outputs, inputs, 3, 3)
        weights[f"features.{number}.bias"] = 0.1 * torch.randn(outputs)
    torch.save(weights, tmp_path / "vgg.pt")
    return tmp_path / "vgg.pt"


def by_hand(path: Path, a: torch.Tensor, b: torch.Tensor) -> float:
    weights = torch.load(path, weights_only=True)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    features = []
    for x in (a, b):
        x = (x - mean) / std
        for number in (0, 2):
            x = F.relu(F.conv2d(x, weights[f"features.{number}.weight"], weights[f"features.{number}.bias"], padding=1))
        features.append(F.normalize(x, dim=1, eps=1e-6))
    return (features[0] - features[1]).square().sum(1).mean().item()


def test_the_reported_distance_is_that_of_the_given_backbone(tiny: Callable[..., Tokenizer], backbone: Path):
    tok, clip = tiny(), Clip("scene", scene(5, 32, 48))
    options = SuiteOptions(backbone=backbone, motion=False, seams=False, still_groups=0)
    found = run_suite(tok, [clip], options).evaluation
    original = as_unit(torch.from_numpy(clip.frames).permute(0, 3, 1, 2))
    expected = by_hand(backbone, original, reconstruct(tok, clip)[0])
    assert found.clips[0].extra["lpips_style"] == pytest.approx(expected, rel=1e-3)
    assert found.extra_means()["lpips_style"] == found.clips[0].extra["lpips_style"] > 0.01


def test_a_file_without_a_known_layout_is_refused_before_any_clip_is_read(
    tiny: Callable[..., Tokenizer], tmp_path: Path
):
    torch.save({"odd": torch.zeros(1)}, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match="neither VGG's nor MobileNetV2's layout"):
        run_suite(tiny(), [], SuiteOptions(backbone=tmp_path / "odd.pt"))
