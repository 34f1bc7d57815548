"""Every form in which published weights are found: names, files, halves, moving averages, statistics, diffusers'."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import streamtok
from streamtok.checkpoint import from_cosmos, from_diffusers, read_folder, save, save_diffusers, to_published
from streamtok.checkpoint.variants import find_variant
from streamtok.config import PRESETS, TokenizerConfig
from tests.kit.models import tiny, video
from tests.kit.published import PUBLISHED, half, same_function, seeded, shrink, small, write_archive

RELEASES = {
    "Cosmos-0.1-Tokenizer-": "CI8x8 CI16x16 DI8x8 DI16x16 CV4x8x8 CV8x8x8 CV8x16x16 DV4x8x8 DV8x8x8 DV8x16x16",
    "Cosmos-1.0-Tokenizer-": "CV8x8x8 DV8x16x16",
    "Cosmos-Tokenize1-": "CI8x8-360p CI16x16-360p DI8x8-360p DI16x16-360p CV8x8x8-720p DV8x16x16-720p CV4x8x8-360p "
    "DV4x8x8-360p",
}
NAMES = [prefix + kind for prefix, kinds in RELEASES.items() for kind in kinds.split()]
KEYS = json.loads((Path(__file__).parents[1] / "golden" / "diffusers_keys.json").read_text())


def clip_for(model):
    return torch.rand(1, 3, *([1 + model.group] if model.config.video else []), 32, 32) * 2 - 1


@pytest.fixture
def folder(tmp_path):
    def make(name):
        made = tmp_path / name
        made.mkdir(parents=True)
        return made

    return make


@pytest.mark.parametrize("name", NAMES)
def test_all_published_checkpoints_load_by_their_folders_names(name, folder):
    model, where = small(name), folder(name)
    weights = to_published(model)
    if "Tokenize1" in name:
        write_archive(half(weights, "encoder", "quant_conv"), where / "encoder.jit")
        write_archive(half(weights, "decoder", "post_quant_conv"), where / "decoder.jit")
    else:
        torch.save(weights, where / "model.pt")
    back, clip = streamtok.load(where), clip_for(model)
    assert back.config == model.config
    assert torch.equal(back.encode(clip).latent, model.encode(clip).latent)
    assert torch.equal(back.decode(back.encode(clip).tokens), model.decode(model.encode(clip).tokens))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Cosmos-Tokenize1-CI16x16-360p", "Cosmos-0.1-Tokenizer-CV4x8x8"])
def test_full_sizes_load(name, folder):
    model, where = seeded(PRESETS[find_variant(name)]), folder(name)
    write_archive(to_published(model), where / "autoencoder.jit")
    assert streamtok.load(where).fingerprint == model.fingerprint


def test_presets_are_what_the_published_keywords_say():
    for kind, time, space, patch, z in (("CV", 4, 8, 2, 16), ("DV", 4, 8, 2, 256), ("CI", 1, 16, 2, 16)):
        values = PUBLISHED | {"name": kind, "channels": 128, "channels_mult": [2, 4, 4], "num_res_blocks": 2}
        values |= {"patch_size": patch, "spatial_compression": space, "temporal_compression": time, "z_channels": z}
        values |= {"latent_channels": 16, "formulation": "AE"}
        config = TokenizerConfig.from_published(values)
        assert replace(config, name=f"{config.name}-360p") == PRESETS[f"{config.name}-360p"]
    long = TokenizerConfig.from_published(PUBLISHED | {"name": "CausalDiscreteFactorizedVideoTokenizer"})
    assert long == TokenizerConfig.from_published(PUBLISHED)
    with pytest.raises(ValueError, match="patch_method is 'rearrange'"):
        TokenizerConfig.from_published(PUBLISHED | {"patch_method": "rearrange"})


def trained(weights, average):
    """A checkpoint as cosmos-predict1's trainer writes it."""
    content = {f"network._orig_mod.{name}": tensor for name, tensor in weights.items()}
    content |= {f"ema.network-{name.replace('.', '-')}": tensor for name, tensor in average.items()}
    content["loss.lpips.weight"] = torch.zeros(2)
    return {"model": content, "optimizer": {"state": {}, "param_groups": []}, "iteration": 7}


def test_the_trainers_file_gives_its_moving_average(folder):
    model, where = small("DV4x8x8-360p"), folder("Cosmos-Tokenize1-DV4x8x8-360p-MINE/checkpoints")
    average = to_published(model)
    newer = {name: tensor + 1 for name, tensor in average.items()}
    torch.save(trained(newer, average), where / "iter_000000200.pt")
    torch.save(trained(average, newer), where / "iter_99.pt")
    (where / "config.json").write_text("{}")
    assert streamtok.load(where).fingerprint == model.fingerprint
    assert streamtok.load(where / "iter_000000200.pt").fingerprint == model.fingerprint
    (where / "iter_000000200.pt").rename(where / "model.pt")
    assert streamtok.load(where).fingerprint == model.fingerprint
    assert from_cosmos(trained(newer, average)["model"], model.config).fingerprint == model.fingerprint


def test_the_trainers_archives_are_a_pair(folder):
    model, where = small("CV8x8x8"), folder("Cosmos-Tokenize1-CV8x8x8-720p-MINE/checkpoints")
    weights = to_published(model)
    write_archive(half(weights, "encoder", "quant_conv"), where / "iter_000000300_enc.jit")
    write_archive(half(weights, "decoder", "post_quant_conv"), where / "iter_000000300_dec.jit")
    for path in (where, where / "iter_000000300_enc.jit", where / "iter_000000300_dec.jit"):
        assert streamtok.load(path).fingerprint == model.fingerprint


@pytest.mark.parametrize("name", ["Cosmos-0.1-Tokenizer-CV4x8x8", "Cosmos-Tokenize1-DI16x16-360p"])
def test_one_half_alone_does_its_half(name, folder):
    model, where = small(name), folder(name)
    weights, clip = to_published(model), clip_for(model)
    write_archive(half(weights, "encoder", "quant_conv"), where / "encoder.jit")
    encoder = streamtok.load(where)
    out = encoder.encode(clip)
    assert torch.equal(out.latent, model.encode(clip).latent)
    assert encoder.stream(1, 32, 32).step(clip.view(1, 3, -1, 32, 32)[:, :, :1]).latent.isfinite().all()
    model.check_fingerprint(encoder.fingerprint)  # whoever has it all may decode
    assert encoder.fingerprint != model.fingerprint
    save_half = partial(save, encoder, where / "saved")
    for refused in (lambda: encoder.decode(out.tokens), lambda: encoder.decode_stream(1, 4, 4), save_half):
        with pytest.raises(ValueError, match="of the encoder alone, which cannot decode"):
            refused()
    write_archive(half(weights, "decoder", "post_quant_conv"), where / "decoder.jit")
    (where / "encoder.jit").unlink()
    decoder = streamtok.load(where)
    assert torch.equal(decoder.decode(out.tokens), model.decode(out.tokens))
    with pytest.raises(ValueError, match="of the decoder alone, which cannot encode"):
        decoder.encode(clip)


def test_statistics_beside_a_checkpoint_normalise_its_latents(folder):
    model, where = small("CV8x8x8"), folder("Cosmos-Tokenize1-CV8x8x8-720p")
    torch.save(to_published(model), where / "model.pt")
    mean, deviation = torch.randn(16, 2), torch.rand(16, 2) + 0.5
    torch.save((mean.flatten(), deviation.flatten()), where / "mean_std.pt")
    back, clip = streamtok.load(where), torch.rand(1, 3, 25, 32, 32) * 2 - 1
    raw, normal = back.encode(clip).latent, back.encode(clip, normalize=True).latent
    for step, column in enumerate((0, 1, 1, 1)):  # what comes later has the last step's
        expected = (raw[0, :, step] - mean[:, column, None, None]) / deviation[:, column, None, None]
        torch.testing.assert_close(normal[0, :, step], expected)
    torch.testing.assert_close(back.decode(normal, normalize=True), back.decode(raw), atol=1e-4, rtol=0)
    assert back.fingerprint == model.fingerprint  # what a latent means is the same
    save(back, where / "ours")
    assert streamtok.load(where / "ours").config == back.config
    with pytest.raises(ValueError, match="has no mean and deviation of latents: load it from a folder that holds mean"):
        model.encode(clip, normalize=True)
    for wrong in ([mean], (mean, deviation[:1]), (mean[:3], deviation[:3]), {"mean": mean}):
        torch.save(wrong, where / "mean_std.pt")
        with pytest.raises(ValueError, match=r"mean_std.pt holds .*expected two"):
            streamtok.load(where)


def diffusers_model():
    config = replace(
        shrink(PRESETS["cosmos-cv8x8x8"]),
        stem_channels=8,
        encoder_channels=(8, 16, 16),
        decoder_channels=(8, 16, 16),
        decoder_blocks=(2, 2, 2),
        z_channels=4,
        latent_channels=4,
        attention_levels=(1,),
        latents_mean=(0.5,) * 8,
        latents_std=(2.0,) * 8,
    )
    return seeded(config)


def test_diffusers_folders_are_written_by_their_names_and_read_back(folder):
    model, where = diffusers_model(), folder("pipeline/vae")
    save_diffusers(model, where)
    file = where / "diffusion_pytorch_model.safetensors"
    stored = load_file(file)
    assert {name: list(tensor.shape) for name, tensor in stored.items()} == KEYS  # of diffusers' own class
    (where.parent / "model_index.json").write_text("{}")
    for path in (where, where.parent):
        back = streamtok.load(path)
        assert back.config == model.config
        same_function(back, model)
    names = sorted(stored)
    shards = {"a.safetensors": names[:9], "b.safetensors": names[9:]}
    for shard, held in shards.items():
        save_file({name: stored[name] for name in held}, where / shard)
    index = where / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: shard for shard, held in shards.items() for name in held}}))
    file.unlink()
    assert from_diffusers(where).fingerprint == model.fingerprint
    index.write_text(json.dumps({"weight_map": {"a": "../a.safetensors"}}))
    with pytest.raises(ValueError, match=r"index.json: its weight_map names \['../a.safetensors'\]"):
        from_diffusers(where)
    index.write_text("[]")
    with pytest.raises(ValueError, match=r"index.json is not an index of weights: it holds a list"):
        from_diffusers(where)
    index.unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no weights: expected diffusion_pytorch_model\.safetensors"):
        from_diffusers(where)


def test_what_diffusers_class_is_not_is_refused(folder):
    where = folder("vae")
    for name in ("dv4x8x8", "di8x8", "slim", "cv4x8x8-vae"):
        with pytest.raises(ValueError, match=r"AutoencoderKLCosmos of diffusers has no '(tiny|nano)'"):
            save_diffusers(tiny(name, dtype=torch.float32), where)
    (where / "config.json").write_text('{"_class_name": "AutoencoderKLWan"}')
    with pytest.raises(ValueError, match=r"config.json is of a AutoencoderKLWan, expected AutoencoderKLCosmos"):
        streamtok.load(where)
    save_diffusers(diffusers_model(), where)
    values = json.loads((where / "config.json").read_text())
    for change in (
        {"patch_type": "rearrange"},
        {"num_layers": "x"},
        {"latents_std": [0.0] * 8},
        {"latent_channels": 5},
    ):
        (where / "config.json").write_text(json.dumps(values | change))
        with pytest.raises(ValueError, match=str(where)):
            streamtok.load(where)


@pytest.mark.parametrize(
    "change",
    [
        {"num_layers": 10**9},
        {"latent_channels": 10**9},
        {"encoder_block_out_channels": [20_000] * 4},
        {"patch_size": 0},
        {"resolution": []},
    ],
)
def test_an_absurd_configuration_of_diffusers_is_refused_before_memory_is_taken(change, folder):
    where = folder("vae")
    save_diffusers(diffusers_model(), where)
    values = json.loads((where / "config.json").read_text())
    (where / "config.json").write_text(json.dumps(values | change))
    with pytest.raises(ValueError, match=r"config\.json") as caught:
        streamtok.load(where)
    assert "\n" not in str(caught.value)


def test_a_small_file_does_not_make_a_large_tokenizer(folder):
    """Views of one value, as large as they like."""
    where = folder("Cosmos-0.1-Tokenizer-DV4x8x8")
    one = torch.zeros(1)
    levels = {f"encoder.down.{n}.block.0.conv2.1.conv3d.weight": one.expand(20_000, 20_000, 3, 1, 1) for n in range(3)}
    torch.save({"encoder.conv_in.0.conv3d.weight": one.expand(20_000, 192, 1, 3, 3), **levels}, where / "model.pt")
    with pytest.raises(ValueError, match=r"it would have \d+ values, and its weights are 4 bytes"):
        streamtok.load(where)


def test_a_name_and_weights_that_disagree_are_told(folder):
    discrete, image = to_published(small("DV4x8x8")), to_published(small("DI8x8"))
    where = folder("Cosmos-0.1-Tokenizer-CV4x8x8")
    torch.save(discrete, where / "model.pt")
    with pytest.raises(ValueError, match=r"CV4x8x8: 'cosmos-cv4x8x8' is a continuous video .* of 6 latent channels"):
        streamtok.load(where)
    shutil.move(where, where.with_name("Cosmos-0.1-Tokenizer-DV4x8x8"))
    torch.save(image, where.with_name("Cosmos-0.1-Tokenizer-DV4x8x8") / "model.pt")
    with pytest.raises(ValueError, match=r"is a discrete video .* the weights are those of an image model"):
        streamtok.load(where.with_name("Cosmos-0.1-Tokenizer-DV4x8x8"))


def test_a_missing_folder_is_named_with_what_was_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none/config.json is missing.* expected a checkpoint folder"):
        read_folder(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"none/config.json") as caught:
        from_diffusers(tmp_path / "none")
    assert "as training writes it" not in str(caught.value)


def test_a_later_format_of_our_folder_is_refused(tmp_path):
    save(tiny("slim", dtype=torch.float32), tmp_path)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(ValueError, match=r"config.json .*format is 2, expected 1"):
        streamtok.load(tmp_path)


def test_no_form_runs_what_it_holds(folder, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    where = folder("Cosmos-Tokenize1-CV8x8x8-720p")
    torch.save(to_published(small("CV8x8x8")), where / "model.pt")
    for name in ("mean_std.pt", "model.pt", "iter_000000001.pt"):
        torch.save({"model": Trap()}, where / name)
        with pytest.raises(ValueError, match=name):
            streamtok.load(where)
        (where / name).unlink()
        torch.save(to_published(small("CV8x8x8")), where / "model.pt") if name == "mean_std.pt" else None
    save_diffusers(diffusers_model(), where)
    (where / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(Trap(), where / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model\.bin"):
        streamtok.load(where)
    assert not (tmp_path / "sprung").exists()


def test_frames_of_the_trainers_model_stream_as_whole_clips():
    """The streaming promise for patch 2 in image and video, and for a name with a longer decoder."""
    model, clip = small("CV4x8x8-360p"), video(9, 32, 32, dtype=torch.float32)
    stream = model.stream(1, 32, 32)
    steps = [stream.step(part).latent for part in (clip[:, :, :1], clip[:, :, 1:5], clip[:, :, 5:])]
    torch.testing.assert_close(torch.cat(steps, 2), model.encode(clip).latent, atol=1e-4, rtol=0)
