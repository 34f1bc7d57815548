"""How the name of a source is written: NAME?key=value&...."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

MOST_FPS = 10_000


def parse_positive(value: str | float) -> float:
    """A number above 0; ValueError for any other, infinity and nan too."""
    number = float(value)
    if not (number > 0 and math.isfinite(number)):
        raise ValueError(f"{value} given, expected a number above 0")
    return number


def parse_rate(value: str | float) -> float:
    """Frames per second; ValueError for what no camera has."""
    rate = float(value)
    if not 0 < rate <= MOST_FPS:
        raise ValueError(f"fps is {value}: expected more than 0 and at most {MOST_FPS} frames per second")
    return rate


def parse_count(text: str) -> int:
    """How many, 1 or more."""
    if (count := int(text)) < 1:
        raise ValueError(f"{text} given, expected 1 or more")
    return count


def parse_index(text: str) -> int:
    """Which one, counted from 0."""
    if (index := int(text)) < 0:
        raise ValueError(f"{text} given, expected 0 or more")
    return index


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
