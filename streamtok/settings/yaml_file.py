"""Reads a YAML file with the line of each key, and sets values on top by dotted keys.

Only size and syntax are checked here; `streamtok.settings.reading` checks the content against a command's settings.
"""

from collections.abc import Collection, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from streamtok.settings.errors import SettingsError

MOST_CHARACTERS = 1 << 20  # of a file
MOST_VALUES = 100_000  # keys, items and values, with aliases expanded
DEEPEST = 64


def shipped() -> dict[str, Path]:
    """The configuration files that come with the package, by name without ".yaml"."""
    try:
        folder = Path(str(files("streamtok.configs")))
    except ModuleNotFoundError:  # a checkout that is on sys.path, but not installed
        folder = Path(__file__).parents[2] / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_yaml(path: str | Path) -> tuple[dict, dict[tuple, int]]:
    """Read a YAML mapping, and the line of each path in it, from a file or a shipped configuration's name ("demo").

    Raises SettingsError if the file does not exist or is not a YAML mapping.
    """
    try:
        file = path if Path(path).is_file() else shipped().get(str(path), path)
        with open(file, encoding="utf-8") as opened:
            text = opened.read(MOST_CHARACTERS + 1)
    except FileNotFoundError as error:
        ours = shipped()
        folder = next(iter(ours.values())).parent
        raise SettingsError(
            f"{path}: no such configuration file; those that come with streamtok are in {folder} and go by their "
            f"names: {', '.join(ours)}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise SettingsError(f"{path}: cannot be read as a configuration file: {reason}") from error
    node, values = parse_yaml(text, f"{path}:")
    if values is None:
        return {}, {}
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: expected keys and values at the top, found {type(values).__name__}")
    return values, dict(find_lines(node, ()))


def parse_yaml(text: str, subject: str) -> tuple[yaml.Node | None, Any]:
    """The node and the value of a document; SettingsError "`subject` not valid YAML" if it is not, or is too large."""
    try:
        check_extent(text)
        return yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the latter two: an impossible date or number
        raise SettingsError(f"{subject} not valid YAML: {' '.join(str(error).split())}") from error


def check_extent(text: str) -> None:
    """Raise ValueError for YAML that is too long, nests too deep, or expands to too much by its aliases."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"it has more than {MOST_CHARACTERS} characters")
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):  # lazily: parsing stops at the first that is too deep
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"it nests deeper than {DEEPEST} levels")
    found, waiting = 0, [(yaml.compose(text, Loader=yaml.SafeLoader), 1)]
    while waiting:
        node, depth = waiting.pop()
        found += 1
        if found > MOST_VALUES or depth > DEEPEST + 1:
            raise ValueError(f"with its aliases it has more than {MOST_VALUES} values, or {DEEPEST} levels")
        if isinstance(node, yaml.MappingNode):
            waiting += [(child, depth + 1) for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(child, depth + 1) for child in node.value]


def find_lines(node: yaml.Node | None, where: tuple) -> Iterator[tuple[tuple, int]]:
    """The path and line (from 1) of every key and list item below `node`, whose own path is `where`."""
    children: list[tuple[str | int, yaml.Node, yaml.Node]]
    if isinstance(node, yaml.MappingNode):
        children = [(key.value, key, child) for key, child in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = [(index, child, child) for index, child in enumerate(node.value)]
    else:
        return
    for name, marked, child in children:
        yield (*where, name), marked.start_mark.line + 1
        yield from find_lines(child, (*where, name))


def expand_key(values: dict, key: str, names: Collection[str]) -> list[str]:
    """Expand "NAME.*.KEY" to one key for each item of the list `values[NAME]`; other keys, or not of `names`, stay."""
    name, star, rest = key.partition(".*.")
    if not star or name not in names:
        return [key]
    items = values.get(name)
    return [f"{name}.{index}.{rest}" for index in range(len(items))] if isinstance(items, list) else []


def put(values: dict, key: str, value: Any) -> None:
    """Set key "a.0.b" in nested mappings and lists; SettingsError if its path runs through something else."""
    *parents, last = key.split(".")
    node: Any = values
    for part in parents:
        if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, dict):
            node = node.setdefault(part, {})
        else:
            raise SettingsError(f"--set {key}={value}: there is no {part!r} here; lists count from 0")
    if isinstance(node, list) and last.isdecimal() and int(last) < len(node):
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise SettingsError(f"--set {key}={value}: {'.'.join(parents) or 'the file'} has no key {last!r}")


def parse_set(items: list[str]) -> dict[str, Any]:
    """Parse `--set a.b=value` arguments as overrides by key; values are read as YAML. Raises SettingsError."""
    pairs = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise SettingsError(f"--set {item}: expected KEY=VALUE, such as streams.0.size=256x448")
        pairs[key] = parse_yaml(text, f"--set {item}: the value is")[1]
    return pairs
