"""Parsing of source names: NAME?key=value&..., their values, and files."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from streamtok.io.suffixes import IMAGE_SUFFIXES

MOST_FPS = 10_000
SWITCH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
STANDARD_INPUT = Path("/dev/stdin")


def parse_positive(value: str | float) -> float:
    """A number above 0; ValueError for any other, infinity and nan too."""
    number = float(value)
    if not (number > 0 and math.isfinite(number)):
        raise ValueError(f"{value} given, expected a number above 0")
    return number


def parse_rate(value: str | float) -> float:
    """Frames per second, such as 30 or 30000/1001; ValueError unless it is above 0 and at most MOST_FPS."""
    try:
        number, slash, by = str(value).partition("/")
        rate = float(number) / (float(by) if slash else 1)
    except (ValueError, ZeroDivisionError):
        rate = math.nan
    if not 0 < rate <= MOST_FPS:
        raise ValueError(f"fps is {value}: expected more than 0 and at most {MOST_FPS} frames per second")
    return rate


def parse_switch(text: str) -> bool:
    """Yes or no, also as true or false, 1 or 0; ValueError for any other."""
    if text not in SWITCH:
        raise ValueError(f"{text!r} given, expected yes or no")
    return SWITCH[text]


def parse_whole(text: str, least: int = 0, most: float = math.inf) -> int:
    """A whole number within limits; ValueError for any other."""
    try:
        number = int(text)
    except ValueError:
        raise ValueError(f"{text!r} given, expected a whole number") from None
    if not least <= number <= most:
        raise ValueError(f"{text} given, expected {least} {'or more' if most == math.inf else f'to {most}'}")
    return number


parse_count = partial(parse_whole, least=1)
parse_bits = partial(parse_whole, least=8, most=16)  # parses the bit depth of pictures that are stored in 16 bits


def split_options(spec: str, text: str, allowed: dict[str, Callable[[str], Any]]) -> tuple[str, dict]:
    """Split `text` "NAME?key=value&..." into (NAME, options), parsed by `allowed`; errors quote the whole `spec`."""
    name, _, query = text.partition("?")
    options: dict = {}
    try:
        given = parse_qsl(query.replace("+", "%2B"), keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:  # its text quotes the value, which may be a secret
        raise ValueError(f"source {spec!r}: expected options as key=value, joined by &") from None
    for key, value in given:
        if key not in allowed:
            raise ValueError(f"source {spec!r}: unknown option {key!r}; known: {', '.join(allowed) or 'none'}")
        try:
            options[key] = allowed[key](value)
        except ValueError as error:
            raise ValueError(f"source {spec!r}: option {key}={value!r}: {error}") from error
    return name, options


def split_file(text: str) -> tuple[Path, dict[str, Any]]:
    """Path and options of "FILE", "FILE?fps=20&stream=1", "file:///FILE" (percent-encoded) or "-" (standard input).

    A file whose name is all of `text` comes first. Videos have the options `fps` (for videos without times) and
    `stream` (which video stream, from 0), pictures `bits`. ValueError for other options and files of other machines.
    """
    if (exactly := Path(text.removeprefix("file://"))).exists():
        return exactly, {}
    name, mark, query = text.partition("?")
    if name.startswith("file:"):
        url = urlsplit(name)
        if url.netloc not in ("", "localhost"):
            raise ValueError(f"source {text!r}: {url.netloc!r} is another machine; expected file:///PATH")
        name = url.path if Path(url.path).exists() else unquote(url.path)
        if not Path(name).exists():  # pathlib makes file:/localhost/PATH of file://localhost/PATH
            name = name.removeprefix("/localhost")
    allowed: dict[str, Callable[[str], Any]] = {"fps": parse_rate, "stream": parse_whole}
    if Path(name).suffix.lower() in IMAGE_SUFFIXES:
        allowed = {"bits": parse_bits}
    _, options = split_options(text, mark + query, allowed)
    return STANDARD_INPUT if name == "-" else Path(name), options
