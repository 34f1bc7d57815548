"""Token files and recordings with known content, as fixtures."""

from pathlib import Path

import pytest

from streamtok.types import TokenGroup
from tests.kit.tokens import make_groups, write_recording, write_token_file


@pytest.fixture
def store(tmp_path):
    """Write groups as either kind of file: `store(kind, groups, name)`."""

    def write(kind: str, groups: list[TokenGroup], name: str = "drive") -> Path:
        if kind == "recording":
            return write_recording(tmp_path / f"{name}.mcap", {groups[0].stream: groups})
        return write_token_file(tmp_path / f"{name}.safetensors", groups)

    return write


@pytest.fixture
def groups_of():
    return make_groups


@pytest.fixture
def token_file():
    return write_token_file


@pytest.fixture
def recording():
    return write_recording
