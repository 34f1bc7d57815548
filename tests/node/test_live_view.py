"""What a sender says of its stream must neither choose what is loaded here nor end the view."""

import pytest

from streamtok.node.live_view import tokenizer_of
from streamtok.settings.decode import DecodeSettings
from streamtok.tokens.files import matching_tokenizer
from tests.kit.wire import make_info


@pytest.mark.parametrize("name", ["/tmp/Cosmos-0.1-Tokenizer-DV4x8x8", "../nano", "", "nano/", "."])
def test_a_name_from_the_network_is_never_a_path(name, monkeypatch):
    monkeypatch.setattr("streamtok.engine.loading.load_checkpoint", lambda *args: pytest.fail(f"loaded {args}"))
    options = DecodeSettings(input="tcp://127.0.0.1:1")
    with pytest.raises(ValueError, match="--model"):
        tokenizer_of(make_info(model=name), options)


@pytest.mark.parametrize("name", ["/tmp/Cosmos-0.1-Tokenizer-DV4x8x8", None, 5, ["nano"]])
def test_a_name_from_a_token_file_is_never_a_path(name, tmp_path, monkeypatch):
    monkeypatch.setattr("streamtok.engine.loading.load_checkpoint", lambda *args: pytest.fail(f"loaded {args}"))
    with pytest.raises(ValueError, match="--model"):
        matching_tokenizer(tmp_path / "t.safetensors", {"model": name, "tokenizer": "ab"}, None)
