"""How a drive is named: by its path, or as images:DIR?fps=N for images without times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streamtok.io.images import OPTIONS
from streamtok.io.spec import split_options

IMAGES = "images:"


def parse_drive(name: str | Path) -> tuple[Path, dict[str, Any]]:
    """The path of a drive, and what `list_images` is to be told about its folders; ValueError for unknown options."""
    text = str(name)
    if not text.startswith(IMAGES):
        return Path(name), {}
    folder, options = split_options(text, text.removeprefix(IMAGES), OPTIONS)
    return Path(folder), options


def resolve_drive(name: str) -> str:
    """The same drive named from the root of the file system."""
    if not name.startswith(IMAGES):
        return str(Path(name).resolve())
    folder, mark, query = name.removeprefix(IMAGES).partition("?")
    return f"{IMAGES}{Path(folder).resolve()}{mark}{query}"
