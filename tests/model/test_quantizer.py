"""Bottlenecks: codes round-trip, agree with an independent implementation, and let gradients through."""

from dataclasses import replace

import pytest
import torch
import vector_quantize_pytorch as vq

from streamtok.config import FSQ_LEVELS
from streamtok.model.quantizer import FSQ, build_quantizer, correlation, fsq_tables
from tests.kit.models import CONFIGS, tiny, video


def test_all_fsq_codes_round_trip():
    fsq = FSQ(FSQ_LEVELS)
    indices = torch.arange(64_000).view(1, 160, 400)
    codes = fsq.decode(indices, torch.float32)
    levels = torch.tensor(FSQ_LEVELS).view(-1, 1, 1)
    z = torch.atanh((codes * (levels // 2) + torch.where(levels % 2 == 0, 0.5, 0.0)) / ((levels - 1) * 1.001 / 2))
    z = z - fsq_tables(fsq.levels, z.dtype, z.device).shift
    out = fsq(z)
    assert torch.equal(out.indices, indices)
    assert torch.equal(out.codes, codes)
    assert codes.flatten(2).unique(dim=2).shape[2] == 64_000


def test_fsq_equals_an_independent_implementation():
    z = torch.randn(4, 6, 50, 50) * 2
    ours, oracle = FSQ(FSQ_LEVELS)(z), vq.FSQ(list(FSQ_LEVELS))
    codes, indices = oracle(z.permute(0, 2, 3, 1).flatten(1, 2))
    assert torch.equal(ours.indices.flatten(1), indices.long())
    torch.testing.assert_close(ours.codes.permute(0, 2, 3, 1).flatten(1, 2), codes, rtol=0, atol=0)


def test_fsq_stays_in_float32_for_a_bfloat16_model():
    z = torch.randn(1, 6, 64, 64).bfloat16()
    out = FSQ(FSQ_LEVELS)(z)
    assert out.codes.dtype == torch.bfloat16
    assert torch.equal(out.indices, FSQ(FSQ_LEVELS)(z.float()).indices)


@pytest.mark.parametrize(
    ("quantizer", "latent", "loss"),
    [
        ("fsq", 6, "correlation"),
        ("residual_fsq", 8, None),
        ("lfq", 10, "entropy_commitment"),
        ("vq", 8, "commitment"),
        ("ae", 4, None),
        ("vae", 4, "kl"),
    ],
)
def test_every_bottleneck_trains_and_decodes(quantizer, latent, loss):
    config = replace(
        CONFIGS["slim"],
        quantizer=quantizer,
        latent_channels=latent,
        codebook_bits=10,
        num_quantizers=2 if quantizer == "residual_fsq" else 1,
    )
    torch.manual_seed(3)
    from streamtok.model import build

    model, clip = build(config), video(5, dtype=torch.float32)
    model.train()
    out = model(clip)
    (out.reconstruction.square().mean() + sum(out.losses.values())).backward()
    assert set(out.losses) == ({loss} if loss else set())
    assert model.encoder.conv_in.spatial.weight.grad.abs().max() > 0
    model.eval()
    coded = model.encode(clip)
    if config.discrete:
        assert coded.indices.shape == ((1, 2, 2, 2, 4) if quantizer == "residual_fsq" else (1, 2, 2, 4))
        assert 0 <= coded.indices.min() <= coded.indices.max() < config.codebook_size
    assert model.decode(coded.indices if config.discrete else coded.latent).shape == clip.shape


def test_a_variational_model_encodes_to_its_mean_unless_asked_to_sample():
    model, clip = tiny("cv4x8x8-vae"), video(5)
    mean = model.encode(clip).latent
    assert torch.equal(model.encode(clip).latent, mean)
    assert not torch.equal(model.encode(clip, sample=True).latent, mean)
    with pytest.raises(ValueError, match="variational"):
        tiny("dv4x8x8").encode(clip, sample=True)


def test_an_unknown_quantizer_is_named():
    with pytest.raises(ValueError, match=r"'gumbel'.*fsq"):
        replace(CONFIGS["slim"], quantizer="gumbel")
    assert build_quantizer(CONFIGS["slim"]).inputs == 6


def test_correlation_is_that_of_the_channels_over_all_places():
    same = torch.randn(2, 1, 4, 4)
    assert correlation(torch.cat([same, -3 * same], 1)) == pytest.approx(1.0, abs=1e-4)
    apart = torch.tensor([[[1.0, 1.0, -1.0, -1.0]], [[1.0, -1.0, 1.0, -1.0]]]).view(1, 2, 2, 2)
    assert correlation(apart) == pytest.approx(0.0, abs=1e-6)
    z = torch.randn(3, 5, 6, 7)
    want = torch.corrcoef(z.transpose(0, 1).flatten(1)).square()
    assert correlation(z) == pytest.approx((want.sum() - 5).item() / 20, rel=1e-3)
