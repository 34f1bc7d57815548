"""Flags that may come from a YAML file too, for the commands that have no settings of their own (`settings`).

`streamtok encode --config encode.yaml --max-frames 30`, where the file says `source: drive.mp4`, `max_frames: 300` and
`out: tokens.safetensors`.
"""

import argparse
from typing import Any

from streamtok.commands.command import RAW
from streamtok.settings.errors import SettingsError


def new_config_parser(name: str, description: str | None) -> "ConfigParser":
    """A parser of which all flags and arguments may come from --config FILE."""
    parser = ConfigParser(f"streamtok {name}", description=description, formatter_class=RAW)
    parser.add_argument("--config", metavar="FILE", help="YAML with these names (max_frames: 100); flags override it")
    return parser


class ConfigParser(argparse.ArgumentParser):
    """Reads what the command line leaves out from the YAML file that `--config` names, by the names of the flags.

    A flag that may be repeated has its plural there (`streams: [front, left]`). SettingsError names file, line and key.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        finder = argparse.ArgumentParser(self.prog, add_help=False, allow_abbrev=False)
        finder.add_argument("--config")
        path = finder.parse_known_args(args)[0].config
        stored = self._stored(path) if path is not None else {}
        for action in self._actions:
            if action.dest in stored:  # left out by argparse unless it is on the command line
                action.default, action.required = argparse.SUPPRESS, False
                if not action.option_strings:
                    action.nargs = "*" if action.nargs in ("+", "*") else "?"
        found, rest = super().parse_known_args(args, namespace)
        for name, value in stored.items():
            if name not in found:
                setattr(found, name, value)
        if "config" in found:
            del found.config
        return found, rest

    def _stored(self, path: str) -> dict[str, Any]:
        """The values in the file as the flags would store them, by `dest`."""
        from streamtok.names import nearest
        from streamtok.settings.yaml_file import read_yaml

        values, lines = read_yaml(path)
        actions = {_key(action): action for action in self._actions if action.dest not in ("config", "help")}
        stored: dict[str, Any] = {}
        for key, value in values.items():
            where = f"{path}:{lines.get((key,), 1)}: {key}"
            if key not in actions:
                raise SettingsError(f"{where}: unknown key (value {value!r}); {nearest(str(key), actions)}")
            try:
                stored |= _as_flag(actions[key], value)
            except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
                raise SettingsError(f"{where}: {error}") from error
        return stored


def _key(action: argparse.Action) -> str:
    """The name of a flag or argument in a file."""
    many = isinstance(action, argparse._AppendAction)
    long = [name for name in action.option_strings if name.startswith("--")]
    return action.dest if many or not long else long[0][2:].replace("-", "_")


def _as_flag(action: argparse.Action, value: Any) -> dict[str, Any]:
    """{dest: what the flag would store}; nothing for a switch that is off. ValueError says what was expected."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError(f"expected true or false (got {value!r})")
        if isinstance(action, argparse.BooleanOptionalAction):
            return {action.dest: value}
        return {action.dest: action.const} if value else {}
    if action.nargs in ("+", "*") or isinstance(action, argparse._AppendAction):
        return {action.dest: [_one(action, item) for item in (value if isinstance(value, list) else [value])]}
    return {action.dest: _one(action, value)}


def _one(action: argparse.Action, value: Any) -> Any:
    if isinstance(value, list | dict | bool | None):
        raise ValueError(f"expected one value (got {value!r}); put text such as yes, on and off in quotes")
    read = action.type if callable(action.type) else str
    try:
        found = read(str(value))
    except ValueError as error:
        raise ValueError(f"expected {getattr(read, '__name__', 'another value')} (got {value!r})") from error
    if action.choices is not None and found not in action.choices:
        raise ValueError(f"expected one of {', '.join(map(str, action.choices))} (got {value!r})")
    return found
