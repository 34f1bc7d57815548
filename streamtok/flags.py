"""Command-line flags that may also come from a YAML file."""

import argparse
from typing import Any

NOT_KEYS = ("help", "config")


def parse_with_config(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Parse `argv`; --config FILE gives flags by name (`max_frames: 100`), and the command line overrides them.

    Faults in the file end the program with status 2, as argparse does, all of them at once.
    """
    parser.add_argument(
        "--config", metavar="FILE", help="flags from a YAML file, by name; the command line overrides it"
    )
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--config")
    path = early.parse_known_args(argv)[0].config
    if path is not None:
        parser.set_defaults(**read_flags(parser, path))
    return parser.parse_args(argv)


def read_flags(parser: argparse.ArgumentParser, path: str) -> dict[str, Any]:
    """The flags in a file, converted as on the command line; `parser.error` lists every fault."""
    from streamtok.command import SettingsError
    from streamtok.names import nearest
    from streamtok.yaml_file import read_yaml

    try:
        values, lines = read_yaml(path)
    except SettingsError as error:
        parser.error(str(error))
    actions = {
        action.dest: action for action in parser._actions if action.option_strings and action.dest not in NOT_KEYS
    }
    found, faults = {}, []
    for key, value in values.items():
        place = f"{path}:{lines[key,]}: {key}"
        if key not in actions:
            faults.append(f"{place}: unknown key (value {value!r}); {nearest(key, list(actions))}")
            continue
        try:
            found[key] = convert(actions[key], value)
        except (ValueError, TypeError) as error:
            faults.append(f"{place}: {error} (got {value!r})")
    if faults:
        parser.error("\n".join(faults))
    return found


def convert(action: argparse.Action, value: Any) -> Any:
    """The value of one flag; ValueError says what is expected."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError("expected true or false")
        return value
    if action.type is not None:
        kind = action.type
        try:
            value = kind(value) if callable(kind) else value
        except (ValueError, TypeError) as error:
            raise ValueError(f"expected {getattr(kind, '__name__', 'another value')}") from error
    if action.choices is not None and value not in action.choices:
        *most, last = map(str, action.choices)
        raise ValueError(f"expected {', '.join(most)} or {last}")
    return value
