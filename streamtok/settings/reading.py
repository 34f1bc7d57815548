"""Reads settings from a YAML file with overrides on top, and checks all of them before anything starts.

    settings = read_settings(ReplaySettings, "replay.yaml", {"speed": 2})

`SettingsError` lists every fault at once, each with file and line, the key's path, the value found, what is allowed
and the nearest valid key.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from streamtok.names import nearest
from streamtok.settings.errors import SettingsError
from streamtok.settings.fields import Strict
from streamtok.settings.yaml_file import expand_key, put, read_yaml

Kind = TypeVar("Kind", bound=Strict)


def read_settings(kind: type[Kind], path: str | Path | None, given: Mapping[str, Any]) -> Kind:
    """Read a YAML file (None: no file) and set the values `given` on top, keyed by path ("streams.0.size").

    "streams.*.size" sets it for every stream. Raises SettingsError with every fault.
    """
    values, lines = read_yaml(path) if path is not None else ({}, {})
    placed: set[str] = set()
    for pattern, value in given.items():
        for key in expand_key(values, pattern, keys_at(kind, ())):
            put(values, key, value)
            placed.add(key)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        name = "command line" if path is None else str(path)
        faults = [describe_fault(fault, kind, name, lines, placed) for fault in error.errors()]
    raise SettingsError("\n".join(dict.fromkeys(faults)))


def describe_fault(
    fault: ErrorDetails, kind: type[BaseModel], name: str, lines: dict[tuple, int], given: set[str]
) -> str:
    """Describe a fault in one line: where it is, what was found, what is allowed. `given` are the overridden paths."""
    where = tuple(part for part in fault["loc"] if not str(part).startswith(("function-", "constrained-")))
    path = ".".join(map(str, where))
    origin = "command line" if any(path == key or path.startswith(f"{key}.") for key in given) else name
    line = next((lines[where[:end]] for end in range(len(where), 0, -1) if where[:end] in lines), None)
    label = f"{origin}:{line}" if origin == name and line else origin
    label += f": {path}" if path else ""
    if fault["type"] == "extra_forbidden":
        places = find_places(kind, str(where[-1]))
        hint = f"its path is {' or '.join(places)}" if places else nearest(str(where[-1]), keys_at(kind, where[:-1]))
        return f"{label}: unknown key (value {fault['input']!r}); {hint}"
    if fault["type"] == "missing":
        return f"{label}: required, not given"
    message = fault["msg"].removeprefix("Value error, ").replace(" for <class 'pathlib.Path'>", "")
    long = isinstance(fault["input"], dict | list) and len(fault["input"]) > 4
    found = "" if long or not where else f" (got {fault['input']!r})"
    return f"{label}: {message[:1].lower() + message[1:]}{found}"


def keys_at(kind: type[BaseModel], where: tuple[int | str, ...]) -> list[str]:
    """The keys that are valid at a path of the settings."""
    for part in where:
        if not isinstance(part, int):
            kind = next(nested_kinds(kind.model_fields[part].annotation), kind)
    return [field.alias or name for name, field in kind.model_fields.items()]


def find_places(kind: type[BaseModel], key: str, under: str = "") -> list[str]:
    """The paths of the settings at which a key is valid, with `*` for each entry of a list."""
    places = [under + key] if key in keys_at(kind, ()) else []
    for name, field in kind.model_fields.items():
        entry = "*." if get_origin(field.annotation) is list else ""
        for nested in nested_kinds(field.annotation):
            places += find_places(nested, key, f"{under}{name}.{entry}")
    return places


def nested_kinds(annotation: Any) -> Iterator[type[BaseModel]]:
    """The kinds of settings that a field of this annotation holds."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            yield candidate
