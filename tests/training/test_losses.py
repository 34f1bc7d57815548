"""Each loss against a case worked out by hand, and gradient steps on it lower what it measures."""

import math
from types import SimpleNamespace

import pytest
import torch

from streamtok.io.synthetic import SyntheticDrive
from streamtok.settings.errors import SettingsError
from streamtok.training.losses import average_frames, compute_losses, measure_pulse, sum_losses
from tests.kit.training import config


@pytest.fixture(scope="module")
def drive():
    frames = torch.from_numpy(SyntheticDrive(64, 96, seed=5).clip(0, 5))
    return frames.float().div(127.5).sub(1).permute(3, 0, 1, 2)[None]


def test_l1_and_mse_of_a_constant_offset():
    source = torch.zeros(1, 3, 2, 4, 4)
    output = SimpleNamespace(reconstruction=source - 0.5, losses={})
    assert compute_losses(output, source, {"l1": 1, "mse": 1}, 4) == {"l1": 0.5, "mse": 0.25}


def test_frames_are_weighted_by_their_place_in_the_group():
    """A keyframe and two groups, and a part of a clip that goes on, with an error of 1 at one place alone."""
    none, places = torch.zeros(1, 3, 9, 4, 4), (2.0, 1.0, 1.0, 0.5)
    for frame, weight in ((0, 1.0), (1, 2.0), (5, 2.0), (8, 0.5)):
        error = none.clone()
        error[:, :, frame] = 1
        assert average_frames(error, places).item() == pytest.approx(weight / 10)
        assert average_frames(error[:, :, 1:], places).item() == pytest.approx((weight if frame else 0) / 9)
    assert average_frames(none[:, :, :1] + 0.5, places) == 0.5
    with pytest.raises(SettingsError, match="place_weights are 4"):
        average_frames(none[:, :, :7], places)


def test_the_pulse_is_the_change_of_the_error_at_group_edges_alone():
    """A keyframe and two groups, then a part of a clip that goes on, with an error of 1 from one frame on."""
    for frame in range(1, 9):
        error = torch.zeros(1, 3, 9, 4, 4)
        error[:, :, frame:] = 1
        assert measure_pulse(error, 4) == (frame == 5)
        assert measure_pulse(error[:, :, 1:], 4) == (frame == 5)
    assert measure_pulse(error[:, :, :5], 4) == 0


@pytest.mark.parametrize("name", ["l1", "mse", "pulse"])
def test_the_losses_have_gradients(name):
    wrong = torch.arange(9.0).reshape(1, 1, 9, 1, 1).requires_grad_()
    output = SimpleNamespace(reconstruction=wrong, losses={})
    compute_losses(output, torch.zeros(1, 1, 9, 1, 1), {name: 1.0}, 4)[name].backward()
    assert wrong.grad.abs().sum() > 0


@pytest.mark.parametrize("quantizer", ["vae", "lfq", "vq"])
def test_the_bottlenecks_own_losses_fall(quantizer, drive):
    import streamtok.model.quantizer as module
    from streamtok.config import PRESETS

    if quantizer != "vae":
        pytest.importorskip("vector_quantize_pytorch")
    torch.manual_seed(0)
    sizes = {"latent_channels": 8 if quantizer != "vae" else 4, "codebook_bits": 8}
    bottleneck = module.build_quantizer(
        PRESETS["nano"].from_dict({**PRESETS["nano"].to_dict(), "quantizer": quantizer, **sizes})
    ).train()
    z = (2 * torch.randn(4, bottleneck.inputs, 8, 8)).requires_grad_()
    optimizer = torch.optim.Adam([z], 0.1)
    values = []
    for _ in range(25):
        (loss,) = bottleneck(z).losses.values()
        values.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert min(values[-5:]) < values[0] - 1e-3


def test_kl_by_hand():
    from streamtok.model.quantizer import Variational

    z = torch.cat([torch.full((1, 2, 1, 1), 3.0), torch.full((1, 2, 1, 1), math.log(4.0))], 1)
    kl = Variational(2)(z).losses["kl"]
    assert kl.item() == pytest.approx(2 * 0.5 * (9 + 4 - 1 - math.log(4.0)), rel=1e-6)


def test_weights_switch_losses(drive):
    output = SimpleNamespace(reconstruction=drive + 0.5, losses={"kl": torch.tensor(7.0)})
    assert compute_losses(output, drive, {"l1": 1.0, "mse": 0.0}, group=4).keys() == {"l1", "kl"}
    terms = compute_losses(output, drive, {"l1": 1.0, "mse": 2.0}, group=4)
    assert sum_losses(terms, {"l1": 1.0, "mse": 2.0}).item() == pytest.approx(0.5 + 2 * 0.25 + 7)
    assert sum_losses(terms, {"l1": 1.0, "mse": 2.0, "kl": 0.0}).item() == pytest.approx(1.0)


@pytest.mark.parametrize("where", ["run", "phase"])
def test_an_unknown_loss_is_refused_before_anything_is_decoded(tmp_path, where):
    losses = {"losses": {"lpips": 1.0}}
    with pytest.raises(ValueError, match=r"unknown losses \['lpips'\]; known: .*l1, mse"):
        config(tmp_path, **(losses if where == "run" else {"phases": [{"until": 1.0, **losses}]}))
