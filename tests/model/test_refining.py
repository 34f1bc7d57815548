"""Refining tokenizers: what stands still sharpens, what moves is redrawn, and a decoder follows from tokens alone."""

import itertools
from dataclasses import replace

import pytest
import torch

import streamtok
from streamtok.config import PRESETS, TokenizerConfig
from streamtok.model.decoding import GridDecoder
from streamtok.model.refining import SIZE_STEP, smooth_edges
from streamtok.training.refinement import fit_refinement
from streamtok.weights.golden import reference_clip
from tests.kit.models import CONFIGS, build, tiny, video

SIZE = (32, 48)


@pytest.fixture(scope="module", params=["slim", "slim-p"])
def fitted(request):
    """A refining tokenizer whose codebooks fit its network, and pictures (12, 3, H, W); fitted to the first 8."""
    torch.manual_seed(5)
    source = tiny(request.param, dtype=torch.float32)
    coarse = torch.rand(12, 3, 8, 12) * 2 - 1
    pictures = torch.nn.functional.interpolate(coarse, SIZE, mode="bilinear")
    return fit_refinement(source, replace(source.config, refinement=64), pictures[:8]), pictures


def hold(picture, groups):
    return picture[None, :, None].expand(-1, -1, 1 + 4 * groups, -1, -1)


def test_what_stands_still_sharpens_group_after_group(fitted):
    model, pictures = fitted
    clip = hold(pictures[9], 8)
    shown = model.decode(model.encode(clip).indices)
    errors = (shown.clamp(-1, 1) - clip).square().mean((0, 1, 3, 4))[[0, *range(4, 33, 4)]].tolist()
    assert all(later <= before for before, later in itertools.pairwise(errors)), errors
    assert errors[-1] < 0.5 * errors[0]


def test_what_is_redrawn_has_the_tokens_of_the_plain_model():
    """A keyframe, a square that moves, a new scene."""
    model, plain = streamtok.load("nano-r"), streamtok.load("nano")
    clip = torch.cat([reference_clip(9), reference_clip(4, start=200).flip(-1)], 2)
    found, wanted = model.encode(clip).indices, plain.encode(clip).indices
    drawn = found < model.config.content_codes
    assert torch.equal(found[drawn], wanted[drawn])
    assert drawn[:, 0].all()
    assert drawn[:, 3].float().mean() > 0.5


def test_a_decoder_in_another_precision_stays_near(fitted):
    model, pictures = fitted
    clip = hold(pictures[11], 40)
    indices, receiver = model.encode(clip).indices, GridDecoder(model, dtype=torch.bfloat16)
    ours = model.decode(indices)[:, :, -1]
    for number, grid in enumerate(indices[0]):
        theirs = receiver.frames(grid.numpy(), number == 0)[:, -1]
    wanted = (ours.clamp(-1, 1) - clip[:, :, -1]).square().mean()
    assert (theirs.float().clamp(-1, 1) - clip[0, :, -1]).square().mean() < 1.2 * wanted + 1e-3
    assert model.refinement.next[-1, :-1].sum() * SIZE_STEP <= 0.981  # a size that differs is forgotten


def test_codewords_are_not_touched_by_a_change_of_precision(fitted):
    model, _ = fitted
    half = model.cast(torch.bfloat16)
    for name, table in model.refinement.state_dict().items():
        assert torch.equal(half.refinement.state_dict()[name], table), name


def test_tokens_that_refine_nothing_are_drawn_as_something(fitted):
    """A hostile first grid: there is nothing to keep, and no state from before is shown."""
    model, _ = fitted
    stream = model.decode_stream(1, 4, 6)
    kept = torch.full((1, 1, 4, 6), model.config.codebook_size - 1)
    first = stream.step(kept)
    for _ in range(30):
        assert torch.isfinite(stream.step(kept)).all()
    assert torch.equal(stream.step(kept, keyframe=[True]), first)
    with pytest.raises(ValueError, match=str(model.config.codebook_size)):
        stream.step(kept + 1)


def test_a_config_says_what_may_refine():
    config = PRESETS["nano-r"]
    assert (config.codebook_size, config.content_codes, config.closed_loop) == (65_536, 64_000, True)
    assert TokenizerConfig.from_dict(config.to_dict()) == config
    assert "refinement" not in PRESETS["nano"].to_dict()  # or fingerprints of 0.1.0 would change
    for wrong in ({"refinement": -1}, {"quantizer": "vq"}):
        with pytest.raises(ValueError, match="refinement is"):
            replace(config, **wrong)
    assert PRESETS["nano-pr"].code_channels == config.code_channels == PRESETS["nano-p"].code_channels + 1
    with pytest.raises(ValueError, match="do not fit"):
        fit_refinement(build(CONFIGS["dv4x8x8"]), replace(CONFIGS["slim"], refinement=8), video(1)[:, :, 0])


@pytest.mark.parametrize("name", ["nano-r", "nano-pr"])
def test_sizes_of_shipped_models_forget_what_they_were(name):
    """Else those of a receiver in another precision drift away from the encoder's, group after group."""
    assert streamtok.load(name).refinement.next[-1, :-1].sum() * SIZE_STEP <= 0.981


def test_training_reaches_the_network_where_cells_are_kept(fitted):
    """The choice has no gradient; what it leaves to redraw has one, and so has the sign of a kept cell."""
    model, pictures = fitted
    clip = hold(pictures[9], 3).clone()
    clip[..., 24:] = (torch.arange(13) % 2 * 2.0 - 1)[:, None, None]  # this half flickers, so it is redrawn
    indices = model.encode(clip).indices
    kept = indices >= model.config.content_codes
    assert kept.any()
    assert not kept[:, 1:].all()
    model.train()
    output = model(clip)
    model.eval()
    assert torch.equal(output.indices, indices)
    output.reconstruction[:, :, 1:].square().mean().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
    read = model.post_quant_conv.weight.grad
    assert read is not None
    assert read[:, -1].abs().sum() > 0
    model.zero_grad(set_to_none=True)


def test_edges_of_kept_cells_are_leveled_and_those_of_the_picture_are_not():
    """Two cells of flat grey, of a ramp, and beside a strong edge; where nothing is kept nothing changes."""
    size, kept = torch.full((1, 1, 2), 1.0), torch.tensor([[[True, False]]])
    flat = torch.cat([torch.zeros(1, 3, 4, 8, 8), torch.full((1, 3, 4, 8, 8), 2 / 127.5)], -1)
    shown = smooth_edges(flat, size, kept) * 127.5
    assert torch.allclose(shown[0, 0, 0, 0, 6:10], torch.tensor([0.2, 0.5, 1.5, 1.8]))
    assert torch.allclose(smooth_edges(flat.mT, size.mT, kept.mT).mT * 127.5, shown)
    ramp = (torch.arange(16) / 127.5).expand(1, 3, 4, 8, 16)
    assert torch.allclose(smooth_edges(ramp, size, kept), ramp)
    edge = smooth_edges(flat * 40, size, kept) - flat * 40
    assert edge.abs().max() * 127.5 <= 0.5 * torch.e + 1e-3  # half a residual of e grey levels
    assert torch.equal(smooth_edges(flat, size, torch.zeros_like(kept)), flat)
