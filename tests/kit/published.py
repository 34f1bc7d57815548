"""Small models in the architectures and layouts of the published checkpoints."""

from dataclasses import replace

import torch
from torch import nn

from streamtok.checkpoint.variants import find_variant
from streamtok.config import PRESETS, TokenizerConfig
from streamtok.model import build
from tests.kit.models import video

PUBLISHED = {
    "attn_resolutions": [32],
    "channels": 8,
    "channels_mult": [1, 2, 2],
    "dropout": 0.0,
    "in_channels": 3,
    "num_res_blocks": 1,
    "out_channels": 3,
    "resolution": 1024,
    "patch_size": 4,
    "patch_method": "haar",
    "z_channels": 8,
    "z_factor": 1,
    "num_groups": 1,
    "legacy_mode": False,
    "spatial_compression": 8,
    "temporal_compression": 4,
    "quantizer": "FSQ",
    "embedding_dim": 6,
    "levels": [8, 8, 8, 5, 5, 5],
    "encoder": "FACTORIZED",
    "decoder": "FACTORIZED",
    "name": "DV",
}


class Archive(nn.Module):
    """A module that holds tensors under dotted names, as a traced published model does."""

    def __init__(self, tensors):
        super().__init__()
        for name, tensor in tensors.items():
            node, (*path, last) = self, name.split(".")
            for part in path:
                if part not in node._modules:
                    node.add_module(part, nn.Module())
                node = node._modules[part]
            if tensor.dtype.is_floating_point:
                node.register_parameter(last, nn.Parameter(tensor.clone()))
            else:
                node.register_buffer(last, tensor.clone())

    def forward(self, x):
        return x


def write_archive(tensors, path):
    torch.jit.trace(Archive(tensors), torch.zeros(1), check_trace=False).save(str(path))


def same_function(a, b):
    clip = video(9, dtype=torch.float32)
    out = a.encode(clip)
    assert torch.equal(out.latent, b.encode(clip).latent)
    assert torch.equal(a.decode(out.tokens), b.decode(out.tokens))


def shrink(config: TokenizerConfig) -> TokenizerConfig:
    """The same architecture with few channels."""
    encoder = tuple(32 for _ in config.encoder_channels)
    decoder = tuple(32 for _ in config.decoder_channels)
    few = {"encoder_blocks": (1,) * len(encoder), "decoder_blocks": (1,) * len(decoder)}
    return replace(config, stem_channels=32, encoder_channels=encoder, decoder_channels=decoder, z_channels=16, **few)


def seeded(config: TokenizerConfig):
    torch.manual_seed(5)
    return build(config)


def small(name: str):
    return seeded(shrink(PRESETS[find_variant(name)]))


def half(weights, *parts):
    return {name: tensor for name, tensor in weights.items() if name.partition(".")[0] in parts}
