"""Each loss against a case worked out by hand, and gradient steps on it lower what it measures."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from streamtok.evaluation.perceptual import MOBILENET_STRIDED, Features
from streamtok.io.synthetic import SyntheticDrive
from streamtok.settings.errors import SettingsError
from streamtok.training.adversary import Adversary
from streamtok.training.config import AdversaryConfig
from streamtok.training.flow import dis_flow, flow_loss, warp, warping_consistency
from streamtok.training.losses import Losses, l1, mse, sum_losses
from tests.kit.networks import vgg_weights
from tests.kit.training import config

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def drive():
    frames = torch.from_numpy(SyntheticDrive(64, 96, seed=5).clip(0, 5))
    return frames.float().div(127.5).sub(1).permute(3, 0, 1, 2)[None]


def mobilenet(blocks=5):
    """The layers of a narrow MobileNetV2, as torch modules, and their weights in its layout."""
    torch.manual_seed(2)

    def unit(dim_in, dim_out, size, stride, groups):
        return torch.nn.Conv2d(dim_in, dim_out, size, stride, size // 2, groups=groups, bias=False), bn(dim_out)

    def bn(dim):
        norm = torch.nn.BatchNorm2d(dim).eval()
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 2)
        return norm

    conv, norm = unit(3, 8, 3, 2, 1)
    layers = [torch.nn.Sequential(conv, norm, torch.nn.ReLU6())]
    for i in range(1, blocks):
        inner = torch.nn.Sequential(
            *unit(8, 16, 1, 1, 1),
            torch.nn.ReLU6(),
            *unit(16, 16, 3, 2 if i in MOBILENET_STRIDED else 1, 16),
            torch.nn.ReLU6(),
            *unit(16, 8, 1, 1, 1),
        )
        block = torch.nn.Module()
        block.conv = inner
        layers.append(block)
    return torch.nn.ModuleDict({"features": torch.nn.ModuleList(layers)}).eval()


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "vgg.pt"
    torch.save(vgg_weights(), path)
    return Features.load(path)


def descend(loss, start, steps=15, rate=0.02):
    """`loss` of `start` before and after gradient steps on it."""
    x = start.clone().requires_grad_()
    first = loss(x).item()
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(loss(x), x)
        x = (x - rate * gradient.sign()).detach().requires_grad_()
    return first, loss(x).item()


def test_l1_and_mse_of_a_constant_offset():
    source = torch.zeros(1, 3, 2, 4, 4)
    assert l1(source + 0.5, source) == 0.5
    assert mse(source - 0.5, source) == 0.25


def test_frames_are_weighted_by_their_place_in_the_group(tmp_path):
    """A keyframe and two groups, and a part of a clip that goes on, with an error of 1 at one place alone."""
    source, places = torch.zeros(1, 3, 9, 4, 4), (2.0, 1.0, 1.0, 0.5)
    for frame, weight in ((0, 1.0), (1, 2.0), (5, 2.0), (8, 0.5)):
        wrong = source.clone()
        wrong[:, :, frame] = 1
        assert l1(wrong, source, places).item() == pytest.approx(weight / 10)
        assert mse(wrong[:, :, 1:], source[:, :, 1:], places).item() == pytest.approx((weight if frame else 0) / 9)
    assert l1(source[:, :, :1] + 0.5, source[:, :, :1], places) == 0.5
    losses = Losses(config(tmp_path, place_weights=places), CPU)
    assert losses.pixels["mse"](wrong, source).item() == pytest.approx(0.05)
    with pytest.raises(SettingsError, match="place_weights are 4"):
        l1(source[:, :, :7], source[:, :, :7], places)


@pytest.mark.parametrize("name", ["l1", "mse", "distance", "gram", "flow"])
def test_gradient_steps_lower_what_it_measures(name, drive, features):
    functions = {"l1": l1, "mse": mse, "flow": warping_consistency}
    function = functions.get(name) or getattr(features, name)
    first, last = descend(lambda x: function(x, drive), drive + 0.2 * torch.randn_like(drive), rate=0.01)
    assert last < 0.8 * first
    assert function(drive, drive) == pytest.approx(0, abs=1e-6)


def test_features_of_the_vgg_layout_are_those_of_its_layers(features, drive):
    w = vgg_weights()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((drive[0].transpose(0, 1) + 1) / 2 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    for number in (0, 2):
        x = F.relu(F.conv2d(x, w[f"features.{number}.weight"], w[f"features.{number}.bias"], padding=1))
    fine, coarse = features.taps(drive)
    torch.testing.assert_close(fine, x)
    x = F.relu(F.conv2d(F.max_pool2d(x, 2), w["features.5.weight"], w["features.5.bias"], padding=1))
    torch.testing.assert_close(coarse, x)


def test_features_of_the_mobilenet_layout_are_those_of_its_layers(tmp_path, drive):
    network = mobilenet()
    torch.save(network.state_dict(), tmp_path / "m.pt")
    loaded = Features.load(tmp_path / "m.pt")
    x = ((drive[0].transpose(0, 1) + 1) / 2 - loaded.mean) / loaded.std
    x = network["features"][0](x)
    wanted = []
    for i, block in enumerate(list(network["features"])[1:], 1):
        y = block.conv(x)
        x = x + y if y.shape == x.shape else y
        wanted += [x] if i in (1, 3) else []
    for got, want in zip(loaded.taps(drive), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_distance_and_gram_by_hand():
    class Same(torch.nn.Module):
        def forward(self, x):
            yield x

    both = Features(Same())
    both.mean.fill_(0.5)
    both.std.fill_(0.5)  # so that features are the pixels themselves
    a = torch.zeros(1, 3, 1, 1, 2)
    a[0, 0, 0, 0, 0], a[0, 1, 0, 0, 1] = 1.0, 2.0  # red, then green twice as bright
    b = torch.zeros(1, 3, 1, 1, 2)
    b[0, 0, 0, 0, :] = 1.0  # red, red
    assert both.distance(a, b).item() == pytest.approx(1.0, abs=1e-4)  # (0 + 2) / 2 places
    # Gram of a: diag(1/2, 4/2, 0); of b: diag(2/2, 0, 0); mean absolute difference over 9 entries
    assert both.gram(a, b).item() == pytest.approx((0.5 + 2.0) / 9, abs=1e-6)


def test_a_file_of_another_layout_is_refused(tmp_path):
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="neither VGG's nor MobileNetV2's"):
        Features.load(tmp_path / "x.pt")
    with pytest.raises(ValueError, match="backbone"):
        Features.load(None)


def test_flow_finds_a_shift_and_warping_undoes_it():
    torch.manual_seed(3)
    wide = F.interpolate(torch.rand(1, 3, 16, 20) * 2 - 1, size=(96, 120), mode="bicubic").clamp(-1, 1)
    first, second = wide[..., 12:108], wide[..., 9:105]  # the picture moves 3 pixels to the right
    flow = dis_flow(first, second)
    inner = (..., slice(16, -16), slice(16, -16))
    assert flow[:, 0][inner].median().item() == pytest.approx(3, abs=0.3)
    assert flow[:, 1][inner].median().item() == pytest.approx(0, abs=0.3)
    assert (warp(second, torch.tensor([3.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 96, 96)) - first)[
        inner
    ].abs().max() < 1e-5


def test_flow_loss_sees_flicker_and_not_a_constant_error(drive):
    offset = torch.full_like(drive, 0.1)
    flicker = offset * torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0]).view(1, 1, 5, 1, 1)
    assert warping_consistency(drive + offset, drive).item() == pytest.approx(0, abs=1e-5)
    assert warping_consistency(drive + flicker, drive).item() == pytest.approx(0.2, abs=1e-3)


def test_a_flow_network_from_a_file(tmp_path, drive):
    class Brightening(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return (b - a)[:, :2]

    torch.jit.script(Brightening()).save(tmp_path / "flow.pt")
    loss = flow_loss(tmp_path / "flow.pt", CPU)
    ramp = 0.1 * torch.arange(5.0).view(1, 1, 5, 1, 1)
    assert loss(drive + ramp, drive).item() == pytest.approx(0.1, abs=1e-5)


def test_images_have_no_flow_loss(drive):
    assert warping_consistency(drive[:, :, :1] + 1, drive[:, :, :1]) == 0


@pytest.mark.parametrize("r1", [0.0, 1.0])
def test_the_discriminator_learns_and_the_tokenizer_can_fool_it(drive, r1):
    torch.manual_seed(0)
    adversary = Adversary(AdversaryConfig(width=4, lr=5e-3, r1=r1), CPU)
    blurred = F.avg_pool3d(drive, (1, 5, 5), 1, (0, 2, 2))
    losses = [adversary.train(drive, blurred) for _ in range(30)]
    assert losses[-1]["discriminator"] < losses[0]["discriminator"] - 0.2
    assert ("r1" in losses[0]) == (r1 > 0)
    first, last = descend(adversary.fool, blurred, steps=5)
    assert last < first


def test_adaptive_weight_balances_the_gradients(drive):
    adversary = Adversary(AdversaryConfig(width=4), CPU)
    x = (drive + 0.1).requires_grad_()
    rest, loss = 3 * mse(x, drive), adversary.fool(x)
    weight = adversary.adaptive_weight(rest, loss, x)
    sizes = [torch.autograd.grad(v, x, retain_graph=True)[0].norm() for v in (rest, weight * loss)]
    torch.testing.assert_close(*sizes, rtol=1e-3, atol=1e-6)


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


def test_weights_switch_losses(tmp_path, drive):
    losses = Losses(config(tmp_path, losses={"l1": 1.0, "mse": 2.0}), CPU)
    output = SimpleNamespace(reconstruction=drive + 0.5, losses={"kl": torch.tensor(7.0)})
    assert losses.terms(output, drive, {"l1": 1.0, "mse": 0.0}).keys() == {"l1", "kl"}
    terms = losses.terms(output, drive, {"l1": 1.0, "mse": 2.0})
    assert sum_losses(terms, {"l1": 1.0, "mse": 2.0}).item() == pytest.approx(0.5 + 2 * 0.25 + 7)
    assert sum_losses(terms, {"l1": 1.0, "mse": 2.0, "kl": 0.0}).item() == pytest.approx(1.0)


def test_an_unknown_loss_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"unknown losses \['lpips'\]; known: .*perceptual"):
        Losses(config(tmp_path, losses={"lpips": 1.0}), CPU)
