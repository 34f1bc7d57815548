"""The published network, number for number: vectors made by its own code from rebuilt weights and clips."""

import json

import numpy as np
import pytest
import torch

from streamtok.checkpoint.cosmos import published_names
from streamtok.config import PRESETS
from streamtok.evaluation.layouts import split_groups
from streamtok.model import build
from tests.kit.golden import GOLDEN, load

KEYS = json.loads((GOLDEN / "cosmos_checkpoint_keys.json").read_text())["variants"]


@pytest.mark.parametrize("name", ["ci8x8_small", "cv8x8x8_small", "dv4x8x8_small"])
def test_golden_vectors_are_reproduced(name):
    tok, clip, want = load(name)
    out = tok.encode(clip, context=None)
    torch.testing.assert_close(out.latent, want["latent"], rtol=0, atol=2e-5)
    if "indices" in want:
        bounded = tok.quantizer.bound(want["latent"].flatten(0, 1).movedim(1, 0).flatten(2)[..., None])
        near = ((bounded - bounded.floor() - 0.5).abs() < 1e-4).any(1).view(want["indices"].shape)
        assert out.indices.dtype == torch.int32
        assert torch.equal(out.indices[~near], want["indices"][~near])
    tokens = want.get("indices", want["latent"])
    torch.testing.assert_close(tok.decode(tokens, context=None), want["recon"], rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", ["cv8x8x8_small", "dv4x8x8_small"])
def test_streaming_the_golden_clip_gives_the_golden_latents(name):
    tok, clip, want = load(name)
    stream = tok.stream(slots=1, height=clip.shape[-2], width=clip.shape[-1])
    groups = split_groups(clip, tok.group)
    latent = torch.cat([stream.step(group).latent for group in groups], 2)
    torch.testing.assert_close(latent, want["latent"], rtol=0, atol=2e-5)
    torch.testing.assert_close(latent, tok.encode(clip, context=None).latent, rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", list(KEYS))
def test_every_published_variant_has_its_names_and_shapes(variant):
    """Checked on the meta device: all ten at full size, with the parameters that forward never reaches left out."""
    preset = f"cosmos-{variant.lower()}"
    with torch.device("meta"):
        model = build(PRESETS[preset])
    ours = {theirs: tuple(model.get_parameter(name).shape) for name, theirs in published_names(model).items()}
    unused = set(KEYS[variant]["keys_not_reached_by_forward"])
    theirs = {key: tuple(shape) for key, shape in KEYS[variant]["keys"] if key not in unused}
    assert ours.keys() == theirs.keys()
    for key, shape in theirs.items():
        assert np.prod(ours[key]) == np.prod(shape), key
    assert all(name.startswith(("encoder.", "decoder.", "quant_conv", "post_quant_conv")) for name in ours)
