"""Checkpoints: our folder, and published TorchScript archives, model.pt and mappings, with what they add or lack."""

import json
from dataclasses import replace

import pytest
import torch

import streamtok
from streamtok.checkpoint import from_cosmos, read_folder, save, to_published
from streamtok.commands import models
from streamtok.config import PRESETS, TokenizerConfig
from streamtok.model import build
from tests.kit.models import CONFIGS, IMAGES, tiny, video
from tests.kit.published import PUBLISHED, same_function, write_archive


def published_model():
    torch.manual_seed(4)
    return build(TokenizerConfig.from_published(PUBLISHED, "tiny-dv"))


def split(model):
    """The published tensors as the two archives hold them, with what tracing and unused modules add."""
    every = to_published(model)
    encoder = {k: v for k, v in every.items() if k.startswith(("encoder.", "quant_conv."))}
    decoder = {k: v for k, v in every.items() if k.startswith(("decoder.", "post_quant_conv."))}
    encoder["encoder.down.1.downsample.conv1.conv3d.weight"] = torch.ones(16, 16, 1, 3, 3)
    encoder["encoder.patcher3d._arange"] = torch.arange(2)
    encoder["quantizer._levels"] = torch.tensor([8, 8, 8, 5, 5, 5])
    decoder["inv_quant.quantizer.implicit_codebook"] = torch.zeros(64000, 6)
    decoder["decoder.unpatcher3d.wavelets"] = torch.ones(2)
    return encoder, decoder


def test_archives_written_under_published_names_load_back(tmp_path):
    model = published_model()
    encoder, decoder = split(model)
    folder = tmp_path / "Cosmos-0.1-Tokenizer-tiny"
    folder.mkdir()
    write_archive(encoder, folder / "encoder.jit")
    write_archive(decoder, folder / "decoder.jit")
    same_function(from_cosmos(folder, PUBLISHED), model)
    same_function(from_cosmos(folder / "encoder.jit", PUBLISHED), model)


@pytest.mark.parametrize("form", ["autoencoder.jit", "model.pt", "mapping"])
def test_every_published_form_loads(form, tmp_path):
    model = published_model()
    encoder, decoder = split(model)
    source = encoder | decoder
    if form == "autoencoder.jit":
        write_archive(source, tmp_path / form)
    elif form == "model.pt":
        torch.save({"model": {f"network.{name}": value for name, value in source.items()}}, tmp_path / form)
    same_function(from_cosmos(source if form == "mapping" else tmp_path, PUBLISHED), model)


@pytest.mark.parametrize("name", ["dv8x8x8", "cv4x8x8", "cv4x8x8-vae", "dv4x8x8-attention", "dv4x8x8-patch2", *IMAGES])
def test_published_names_cover_every_kind(name):
    model = tiny(name, dtype=torch.float32)
    back = from_cosmos(to_published(model), model.config)
    clip = video(1 if name in IMAGES else 1 + model.group, 32, 32, dtype=torch.float32)
    assert torch.equal(back.encode(clip).latent, model.encode(clip).latent)


def test_what_the_weights_tell_overrules_the_config():
    """A shorter decoder, patch size 2 and wider z_channels are read off the shapes."""
    model = build(
        replace(CONFIGS["cv4x8x8"], patch_size=2, z_channels=12, decoder_channels=(8, 16, 16), decoder_blocks=(1, 1, 1))
    )
    given = {**PUBLISHED, "name": "CV", "latent_channels": 4, "formulation": "AE"}
    back = from_cosmos(to_published(model), given)
    assert (back.config.patch_size, back.config.z_channels) == (2, 12)
    short = build(CONFIGS["cv4x8x8"])
    assert from_cosmos(to_published(short), {**given, "z_channels": 99}).config.decoder_channels == (8, 16)


def test_a_folder_name_tells_the_variant(tmp_path):
    folder = tmp_path / "Cosmos-0.1-Tokenizer-DV8x16x16"
    folder.mkdir()
    model = build(replace(CONFIGS["dv8x16x16"], mid_attention=True))
    torch.save(to_published(model), folder / "model.pt")
    assert from_cosmos(folder).config.temporal_compression == 8
    with pytest.raises(ValueError, match="cannot tell which variant"):
        from_cosmos(to_published(model))


def test_a_checkpoint_that_does_not_fit_says_which_names_and_shapes():
    weights = to_published(published_model())
    del weights["encoder.mid.block_1.conv1.0.conv3d.weight"]
    weights["encoder.surprise.weight"] = torch.zeros(3)
    weights["encoder.norm_out.norm.weight"] = torch.zeros(5)
    with pytest.raises(ValueError, match="does not fit") as raised:
        from_cosmos(weights, PUBLISHED)
    for part in (
        "1 missing: encoder.mid.block_1.conv1.0.conv3d.weight",
        "1 unexpected: encoder.surprise.weight",
        "encoder.norm_out.norm.weight (5,), expected (16,)",
    ):
        assert part in str(raised.value)


def test_tensors_that_do_not_fit_are_listed_in_the_models_order():
    weights = to_published(published_model())
    names = [name for name in weights if name.startswith("encoder.") and "norm" in name and name.endswith(".weight")]
    assert sorted(names) != names
    with pytest.raises(ValueError, match="does not fit") as reshaped:
        from_cosmos(weights | {name: torch.zeros(3) for name in names}, PUBLISHED)
    with pytest.raises(ValueError, match="does not fit") as missing:
        from_cosmos({name: value for name, value in weights.items() if name not in names}, PUBLISHED)
    for raised in (reshaped, missing):
        found = [name for name in names if name in str(raised.value)]
        assert len(found) > 3
        assert sorted(found, key=str(raised.value).index) == found


@pytest.mark.parametrize("name", ["slim", "slim-p", "dv4x8x8", "di8x8", "cv4x8x8", "cv4x8x8-vae"])
def test_our_folder_round_trips(name, tmp_path):
    model = tiny(name, dtype=torch.float32)
    save(model, tmp_path)
    back = streamtok.load(tmp_path)
    assert back.fingerprint == model.fingerprint
    assert back.config == model.config
    clip = video(1 if name in IMAGES else 5, 32, 32, dtype=torch.float32)
    assert torch.equal(back.encode(clip).latent, model.encode(clip).latent)


def test_whoever_may_read_the_configuration_may_read_the_weights(tmp_path):
    """A node's service reads what another user has trained."""
    save(tiny("slim"), tmp_path)
    weights, values = ((tmp_path / name).stat().st_mode for name in ("model.safetensors", "config.json"))
    assert weights == values


def test_half_precision_files_are_read_as_float32_with_the_fingerprint_of_what_is_stored(tmp_path):
    model = tiny("slim", dtype=torch.float32)
    save(model, tmp_path, dtype=torch.float16)
    back = read_folder(tmp_path)
    assert back.dtype == torch.float32
    assert back.fingerprint != model.fingerprint
    assert json.loads((tmp_path / "config.json").read_text())["fingerprint"] == back.fingerprint


def test_altered_weights_are_refused(tmp_path):
    save(tiny("slim", dtype=torch.float32), tmp_path / "a")
    other = tiny("slim", dtype=torch.float32)
    other.post_quant_conv.bias.data += 1
    save(other, tmp_path / "b")
    (tmp_path / "a" / "model.safetensors").write_bytes((tmp_path / "b" / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="fingerprint"):
        streamtok.load(tmp_path / "a")


def test_names_that_are_not_known_say_what_is():
    with pytest.raises(ValueError, match="did you mean nano"):
        streamtok.load("nanno")
    assert set(streamtok.list_presets()) == set(PRESETS)
    assert {"nano", "small", "cosmos-dv4x8x8", "cosmos-ci16x16", "cosmos-cv8x16x16"} <= set(PRESETS)


def test_a_published_variational_config_doubles_the_encoder_only():
    given = {**PUBLISHED, "name": "CV", "latent_channels": 4, "formulation": "VAE", "z_factor": 2}
    model = build(TokenizerConfig.from_published(given))
    published = {name: tuple(tensor.shape) for name, tensor in to_published(model).items()}
    assert published["quant_conv.conv3d.weight"] == (8, 16, 1, 1, 1)
    assert published["post_quant_conv.conv3d.weight"] == (8, 4, 1, 1, 1)
    assert published["encoder.conv_out.1.conv3d.weight"] == (16, 16, 3, 1, 1)
    same_function(from_cosmos(to_published(model), {**given, "z_factor": 1}), model)


def test_a_published_folder_may_have_a_config_of_its_own(tmp_path):
    """As a download from the hub may; the folder's own name says the variant, whatever its parents are called."""
    folder = tmp_path / "DV8x8x8-against" / "Cosmos-0.1-Tokenizer-DV4x8x8"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"architectures": ["CosmosTokenizer"]}')
    model = build(
        replace(
            PRESETS["cosmos-dv4x8x8"],
            stem_channels=8,
            encoder_channels=(8, 8, 8),
            decoder_channels=(8, 8, 8),
            encoder_blocks=(1, 1, 1),
            decoder_blocks=(1, 1, 1),
        )
    )
    torch.save(to_published(model), folder / "model.pt")
    back = streamtok.load(folder)
    assert back.config.name == "cosmos-dv4x8x8"
    same_function(back, model)
    save(model, folder)
    assert streamtok.load(folder).config.encoder_channels == (8, 8, 8)


def test_a_published_name_that_is_not_there_says_how_to_get_it():
    with pytest.raises(
        ValueError, match=r"nvidia/Cosmos-0.1-Tokenizer-DV4x8x8 on the hub.*did you mean cosmos-dv4x8x8"
    ):
        streamtok.load("Cosmos-0.1-Tokenizer-DV4x8x8")


def test_what_is_loaded_in_inference_mode_goes_on_after_it(tmp_path):
    save(tiny("dv4x8x8", dtype=torch.float32), tmp_path)
    clip = video(5, dtype=torch.float32)
    with torch.inference_mode():
        model = streamtok.load(tmp_path)
        stream = model.stream(slots=len(clip), height=clip.shape[-2], width=clip.shape[-1])
        stream.step(clip[:, :, :1])
        half = model.cast(torch.bfloat16)
    assert stream.step(clip[:, :, 1:]).indices.shape[1] == 1
    assert stream.snapshot()["meta"]["fingerprint"] == model.fingerprint == half.fingerprint
    half.cast(torch.float16).encode(clip)


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(ValueError, match=f"device '{device}'"):
        streamtok.load("nano", device=device)


def test_the_warning_about_random_weights_points_at_the_caller():
    with pytest.warns(UserWarning, match="no weights ship for 'small'") as caught:
        streamtok.load("small")
    assert [warning.filename for warning in caught] == [__file__]


def test_listing_the_presets_warns_of_nothing(capsys, recwarn):
    assert models.main(["small", "--json"]) == 0
    assert not recwarn.list


ABSURD = {
    "stem_channels": 10**9,
    "z_channels": -1,
    "encoder_channels": [10**7, 10**7],
    "encoder_blocks": [10**9, 10**9],
    "num_quantizers": 10**9,
    "levels": [10**9] * 6,
    "temporal_compression": 2**60,
    "dropout": "a",
    "quantizer": [],
}


@pytest.mark.parametrize("key", ABSURD)
def test_an_absurd_configuration_is_refused_in_a_line_that_names_its_file(key, tmp_path):
    save(build(CONFIGS[next(iter(CONFIGS))]), tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values["tokenizer"][key] = ABSURD[key]
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"config.json") as caught:
        read_folder(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b"[]", b"{}", b'{"tokenizer": null}', b"\xff\xfe", b" " * 2_000_000, b""]
)
def test_what_is_no_configuration_is_refused_in_a_line_that_names_the_file(text, tmp_path):
    save(build(CONFIGS[next(iter(CONFIGS))]), tmp_path)
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"config.json is not a tokenizer configuration") as caught:
        read_folder(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [0, 4, 100, -50])
def test_a_weights_file_that_is_cut_off_is_refused_by_its_name(cut, tmp_path):
    save(build(CONFIGS[next(iter(CONFIGS))]), tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"model.safetensors is cut off, or no safetensors file"):
        read_folder(tmp_path)
    file.write_bytes(b"garbage" * 1000)
    with pytest.raises(ValueError, match=r"model.safetensors is cut off, or no safetensors file"):
        read_folder(tmp_path)


def test_tokens_of_nano_as_it_was_first_shipped_still_fit():
    """Its decoder was exchanged since, its tokens were not."""
    nano = streamtok.load("nano", expect="4bb4251deab359de27a96a9715f039ab")
    assert nano.weights_digest != nano.fingerprint
    nano.check_fingerprint("daa87d79aed121528d7e98b145a90c82")  # of its encoder alone
