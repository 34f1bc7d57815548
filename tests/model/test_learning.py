"""Training goes through the same layers: it learns, gradients pass the quantizer, and carried state carries them."""

import pytest
import torch

from tests.kit.models import tiny, video


@pytest.mark.parametrize("name", ["slim", "dv4x8x8", "slim-p"])
def test_a_tiny_clip_is_overfitted(name):
    model = tiny(name, dtype=torch.float32).train()
    steps = torch.linspace(-0.8, 0.8, 16)
    clip = (steps.view(16, 1) * steps.view(1, 16)).expand(1, 3, 5, 16, 16).clone()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        loss = (model(clip).reconstruction - clip).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("name", ["slim", "dv8x8x8", "cv4x8x8", "slim-p"])
def test_gradients_reach_every_parameter_and_the_pixels(name):
    model = tiny(name).train()
    clip = video(1 + 2 * model.group).requires_grad_()
    model(clip).reconstruction.square().sum().backward()
    assert clip.grad.abs().max() > 0
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []


@pytest.mark.parametrize("name", ["slim", "dv8x8x8", "dv4x8x8-attention", "slim-p"])
def test_two_halves_with_carried_state_give_the_gradients_of_the_whole(name):
    model = tiny(name)
    clip, cut = video(1 + 4 * model.group, 8, 16, batch=2) if "16" not in name else video(9), 1 + 2 * model.group
    model(clip).reconstruction.square().sum().backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    first = model(clip[:, :, :cut])
    second = model(clip[:, :, cut:], first.state)
    (first.reconstruction.square().sum() + second.reconstruction.square().sum()).backward()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[key], rtol=1e-8, atol=1e-8)
