"""Muon's update against an exact orthogonalisation, AdamW against torch's, the average and the schedule by hand."""

import pytest
import torch
from torch import nn

from streamtok.config import PRESETS
from streamtok.model import build
from streamtok.training.config import OptimizerConfig
from streamtok.training.optimizer import Average, MuonAdamW, band_rate, cosine, is_hidden, orthogonalize


@pytest.mark.parametrize("shape", [(2, 20, 60), (1, 60, 20), (3, 32, 32)])
def test_orthogonalize_keeps_the_directions_and_levels_the_sizes(shape):
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    got = orthogonalize(matrices).double()
    u, _, vh = torch.linalg.svd(matrices.double(), full_matrices=False)
    values = torch.diagonal(u.mT @ got @ vh.mT, dim1=-2, dim2=-1)  # got seen in the directions of the input
    assert values.min() > 0.4
    assert values.max() < 1.4
    assert (got - u @ torch.diag_embed(values) @ vh).norm() < 0.05 * got.norm()


def test_a_temporal_weight_moves_like_the_same_weight_stored_as_a_convolution():
    class Taps(nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.weight = nn.Parameter(weight)

    torch.manual_seed(0)
    taps = torch.randn(3, 20, 24)  # (taps, out, in)
    one, other = Taps(taps.clone()), Taps(taps.permute(1, 0, 2).clone()[..., None])  # (out, taps, in, 1)
    for module, gradient in ((one, taps.sin()), (other, taps.sin().permute(1, 0, 2)[..., None])):
        optimizer = MuonAdamW(module, OptimizerConfig())
        assert len(optimizer.muon) == 1
        module.weight.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(one.weight.permute(1, 0, 2), other.weight[..., 0])
    step = (one.weight - taps).detach()
    assert step.square().mean().sqrt().item() == pytest.approx(0.2 * 2e-3, rel=0.3)  # as large as AdamW's


def test_adamw_part_equals_torch():
    torch.manual_seed(0)
    mine, theirs = nn.Linear(4, 3), nn.Linear(4, 3)
    theirs.load_state_dict(mine.state_dict())
    config = OptimizerConfig(adamw_lr=1e-2)
    own = MuonAdamW(mine, config)
    reference = torch.optim.AdamW(theirs.parameters(), 1e-2, betas=config.adamw_betas, weight_decay=0.0)
    for i in range(5):
        x = torch.randn(8, 4)
        for model in (mine, theirs):
            model.zero_grad()
            (model(x) ** 2).sum().backward()
        own.set_lr(1 / (i + 1))
        for group in reference.param_groups:
            group["lr"] = 1e-2 / (i + 1)
        own.step()
        reference.step()
    torch.testing.assert_close(mine.weight, theirs.weight)


def test_clip_scales_to_the_limit_and_tells_the_norm():
    model = nn.Linear(2, 1, bias=False)
    optimizer = MuonAdamW(model, OptimizerConfig(clip=1.0))
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    assert optimizer.clip().item() == pytest.approx(5)
    torch.testing.assert_close(model.weight.grad, torch.tensor([[0.6, 0.8]]))


@pytest.mark.parametrize("preset", ["nano", "nano-p", "small"])
def test_muon_takes_the_hidden_weights_of_a_preset_and_adamw_the_rest(preset):
    named = dict(build(PRESETS[preset]).named_parameters())
    hidden = {name for name, p in named.items() if is_hidden(name, p)}
    assert {name for name in hidden if "conv_in" in name or "conv_out" in name or "quant" in name} == set()
    assert all(named[name].ndim >= 3 for name in hidden)
    assert any("temporal" in name for name in hidden)
    weights = [p for name, p in named.items() if name in hidden]
    assert sum(p.numel() for p in weights) > 0.6 * sum(p.numel() for p in named.values())


def test_band_layers_move_as_for_orthonormal_bands():
    assert band_rate("encoder.conv_in.spatial.weight", 8.0) == 8
    assert band_rate("decoder.conv_out.weight", 8.0) == band_rate("decoder.conv_out.bias", 8.0) == 1 / 8
    assert band_rate("encoder.down.0.block.0.norm1.weight", 8.0) == 1


def test_average_by_hand_and_swap():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = Average(model, 0.5)
    nn.init.ones_(model.weight)
    average.update()  # keeps 2/11 of zero
    assert average.shadow[0].item() == pytest.approx(9 / 11)
    average.swap()
    assert model.weight.item() == pytest.approx(9 / 11)
    average.swap()
    assert model.weight.item() == 1


def test_cosine_warms_up_in_steps_and_falls_with_progress():
    config = OptimizerConfig(warmup=10, final_lr=0.1)
    assert cosine(0, 0.0, config) == pytest.approx(0.1)
    assert cosine(50, 0.0, config) == pytest.approx(1)
    assert cosine(50, 0.5, config) == pytest.approx(0.55)
    assert cosine(50, 1.0, config) == pytest.approx(0.1)


def test_optimizer_state_of_another_model_is_refused():
    state = MuonAdamW(nn.Linear(4, 3), OptimizerConfig()).state_dict()
    with pytest.raises(ValueError, match="another preset"):
        MuonAdamW(nn.Linear(5, 3), OptimizerConfig()).load_state_dict(state)
