"""Makes command line flags from settings: each field with a description is a flag, or an argument, of its command.

Name, choices, metavar and default follow from the field; `Flag` overrides them. A flag that is not given is left out,
so that its value comes from --config FILE, else from the settings' defaults. The settings check all values.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from streamtok.settings.fields import Flag, Strict
from streamtok.settings.reading import Kind, read_settings
from streamtok.settings.yaml_file import parse_set


def parse_settings(kind: type[Kind], name: str, words: str | None, argv: list[str] | None) -> Kind:
    """Read the settings of `streamtok NAME` from its command line, and from the YAML file that --config names.

    `words` are the help. Raises SystemExit for unknown flags, SettingsError for wrong values.
    """
    given = vars(new_parser(name, words, kind).parse_args(argv))
    path, changes = given.pop("config", None), parse_set(given.pop("set", []))
    return read_settings(kind, path, given | changes)


def new_parser(name: str, words: str | None, *kinds: type[Strict]) -> argparse.ArgumentParser:
    """Make the parser of `streamtok NAME`; `words` are shown as they are written, with their line breaks."""
    parser = new_plain_parser(name, words)
    parser.add_argument(
        "--config",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="YAML with these names, _ for - (keyframe_interval: 5); flags override it",
    )
    for kind in kinds:
        add_flags(parser, kind)
    if any(field.description is None for kind in kinds for field in kind.model_fields.values()):
        parser.add_argument(
            "--set",
            action="append",
            default=argparse.SUPPRESS,
            metavar="KEY=VALUE",
            help="override any key of the file, nested ones with dots",
        )
    return parser


def new_plain_parser(name: str, words: str | None) -> argparse.ArgumentParser:
    """Make a parser without flags."""
    return Parser(f"streamtok {name}", description=words, formatter_class=argparse.RawDescriptionHelpFormatter)


class Parser(argparse.ArgumentParser):
    """Refuses `--flag=--`, whose value argparse would drop. After a bare `--` there are no flags."""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        for item in takewhile(lambda item: item != "--", sys.argv[1:] if args is None else args):
            if item.startswith("--") and item.endswith("=--"):
                self.error(f"argument {item[:-3]}: expected a value, not '--'")
        return super().parse_known_args(args, namespace)


def add_flags(parser: argparse.ArgumentParser, kind: type[Strict]) -> None:
    """Add a flag for every described field, a class's own before inherited ones."""
    names = [name for base in kind.__mro__ for name in getattr(base, "__annotations__", {})]
    for name in dict.fromkeys(name for name in names if name in kind.model_fields):
        field = kind.model_fields[name]
        if field.description is not None:
            add_flag(parser, field.alias or name, field)


def add_flag(parser: argparse.ArgumentParser, key: str, field: FieldInfo) -> None:
    """Add one flag or argument; its value is stored under `key`, the field's name in a YAML file."""
    parts = [*walk_annotation(field.annotation), *field.metadata]
    flag, several = merge_flags(parts), any(get_origin(part) is list for part in parts)
    choices = [choice for part in parts if get_origin(part) is Literal for choice in get_args(part)]
    options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": describe_flag(field, flag).replace("%", "%%")}
    if any(part is bool for part in parts):
        options["action"] = "store_true" if field.default is False else argparse.BooleanOptionalAction
    elif choices:
        options["choices"] = choices
    else:
        options["metavar"] = flag.metavar or key.upper()
    if flag.positional:
        parser.add_argument(key, nargs="*" if several else "?", **options)
        return
    if several:
        options |= {"nargs": flag.nargs} if flag.nargs else {"action": "append"}
    names = [flag.short] * bool(flag.short) + [flag.long or f"--{key.replace('_', '-')}"]
    parser.add_argument(*names, dest=key, **options)


def merge_flags(parts: Iterable[Any]) -> Flag:
    """The `Flag`s among the parts of an annotation as one: what the type says, then what the field says itself."""
    given = [vars(part).items() for part in parts if isinstance(part, Flag)]
    return Flag(**{name: value for items in given for name, value in items if value})


def walk_annotation(annotation: Any) -> Iterator[Any]:
    """Yield a field's annotation and all its parts: types, unions, metadata."""
    yield annotation
    for part in get_args(annotation):
        yield from walk_annotation(part)


def describe_flag(field: FieldInfo, flag: Flag) -> str:
    """The help of one flag: the field's description and its default."""
    value = None if field.is_required() else field.default
    if not value:
        return field.description or ""
    if isinstance(value, bool):
        text = "yes"
    elif isinstance(value, tuple):
        text = flag.metavar[1:-1].join(map(str, value))  # HxW, i/N
    elif isinstance(value, list):
        text = " ".join(value)
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{field.description} (default {text})"
