"""How the name of a source is written: NAME?key=value&...."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl


def split_options(spec: str, text: str, allowed: dict[str, Callable[[str], Any]]) -> tuple[str, dict]:
    """`text` "NAME?key=value&..." as (NAME, options), values of the `allowed` type; errors quote the whole `spec`."""
    name, _, query = text.partition("?")
    options: dict = {}
    for key, value in parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)):
        if key not in allowed:
            raise ValueError(f"source {spec!r}: unknown option {key!r}; known: {', '.join(allowed) or 'none'}")
        try:
            options[key] = allowed[key](value)
        except ValueError as error:
            raise ValueError(f"source {spec!r}: option {key}={value!r}: {error}") from error
    return name, options
