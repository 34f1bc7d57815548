"""docs/wire-protocol.md names every field that is sent, and no other."""

import re
from pathlib import Path

import pytest

from streamtok.preprocessing.pixels import CHANNELS
from streamtok.wire import control, endpoint, header
from streamtok.wire.publisher import Publisher

PAGE = (Path(__file__).parents[2] / "docs" / "wire-protocol.md").read_text()


def fields_in(section: str) -> list[str]:
    """The names in the first column of a section's first table."""
    text = re.split(r"(?m)^#+ ", PAGE.split(f"# {section}\n", 1)[1])[0]
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


@pytest.mark.parametrize(
    ("section", "kind"),
    [("Token header", header.TokenHeader), ("Info", header.Info), ("Frames", header.FrameHeader)],
)
def test_the_page_has_every_field(section, kind):
    assert sorted(fields_in(section)) == sorted(kind.__struct_fields__)


def test_token_header_fields_come_in_the_order_of_the_page():
    assert fields_in("Token header") == list(header.TokenHeader.__struct_fields__)


def test_the_page_has_the_encodings_ops_and_numbers_of_the_code():
    with Publisher("ipc://*") as publisher:
        ops = [*publisher._control.handlers]
    for word in [*(set(header.RAW_PIXEL_BYTES) - set(CHANNELS)), *list(CHANNELS)[:3], *ops]:
        assert f"`{word}`" in PAGE
    assert f"{header.Limits().max_grid:,} elements" in PAGE
    assert f"up to {control.MAX_EPOCH >> 20} MiB" in PAGE
    assert f"at most {control.MAX_REQUEST} bytes" in PAGE
    assert f"{endpoint.LINGER_MS} ms" in PAGE
