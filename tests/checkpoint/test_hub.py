"""Checkpoints by org/name: found in the hub's cache without a network, and told apart from folders and presets."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub", reason="the hub needs: pip install huggingface-hub")

import huggingface_hub
from huggingface_hub.utils import filter_repo_objects

import streamtok
from streamtok.checkpoint import to_published
from streamtok.checkpoint.hub import FILES
from tests.kit.models import VIDEO, build
from tests.kit.published import small, write_archive

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache in the hub's layout, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def test_a_repository_is_loaded_from_the_cache(cache):
    tokenizer = build(VIDEO)
    repository = cache / "models--acme--tiny"
    streamtok.save(tokenizer, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    assert streamtok.load("acme/tiny").fingerprint == tokenizer.fingerprint
    assert streamtok.load(f"acme/tiny@{COMMIT}").fingerprint == tokenizer.fingerprint
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE"):
        streamtok.load("acme/tiny@v2")


def test_a_published_repository_is_known_by_its_name(cache):
    tokenizer = small("Cosmos-0.1-Tokenizer-DV4x8x8")
    snapshot = cache / "models--nvidia--Cosmos-0.1-Tokenizer-DV4x8x8" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    write_archive(to_published(tokenizer), snapshot / "autoencoder.jit")
    loaded = streamtok.load(f"nvidia/Cosmos-0.1-Tokenizer-DV4x8x8@{COMMIT}")
    assert (loaded.config, loaded.fingerprint) == (tokenizer.config, tokenizer.fingerprint)


def test_only_the_tokenizer_is_fetched():
    ours = ["config.json", "model.safetensors", "coder.safetensors", "encoder.jit", "mean_std.pt", "vae/config.json"]
    theirs = ["transformer/model.safetensors", "text_encoder/config.json", "clip.mp4", "checkpoints/model.pt"]
    assert list(filter_repo_objects(ours + theirs, allow_patterns=FILES)) == ours


def test_what_is_not_there_is_told(cache, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no folder 'acme/none' here, and the hub's cache"):
        streamtok.load("acme/none")
    with pytest.raises(ValueError, match="presets: nano"):
        streamtok.load("a/b/c")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install 'huggingface-hub"):
        streamtok.load("acme/none")


def test_a_push_uploads_what_load_reads(cache, monkeypatch):
    """The hub itself cannot run here: its client's two calls are watched."""
    tokenizer, made = build(VIDEO), []

    class Api:
        def create_repo(self, name, private, exist_ok):
            return f"https://hub/{name}?{private}"

        def upload_folder(self, repo_id, folder_path, commit_message):
            made.append((streamtok.load(folder_path).fingerprint, Path(folder_path, "README.md").read_text()))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert streamtok.push(tokenizer, "acme/tiny") == "https://hub/acme/tiny?True"
    [(fingerprint, card)] = made
    assert fingerprint == tokenizer.fingerprint
    assert 'streamtok.load("acme/tiny")' in card
    with pytest.raises(ValueError, match="org/name"):
        streamtok.push(tokenizer, "tiny")
