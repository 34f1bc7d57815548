"""What all commands share: the shape of their parser, and how they end.

Only the standard library is imported here, so that `streamtok --help` works whatever is missing.
"""

import argparse
import functools
import io
import os
import select
import sys
from collections.abc import Callable
from typing import Any

from streamtok.names import without_password
from streamtok.node.process import share_cores
from streamtok.settings.errors import SettingsError

RAW = argparse.RawDescriptionHelpFormatter


def new_parser(name: str, description: str | None, **options: Any) -> argparse.ArgumentParser:
    """The parser of `streamtok NAME`; its description is shown as it is written, examples and all."""
    return argparse.ArgumentParser(f"streamtok {name}", description=description, formatter_class=RAW, **options)


def new_settings_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """A parser that leaves out what is not given: that comes from --config FILE, else from the settings' defaults."""
    parser = new_parser(name, description, argument_default=argparse.SUPPRESS)
    parser.add_argument("--config", metavar="FILE", help="YAML with these names (max_frames: 100); flags override it")
    parser.add_argument("--json", action="store_true", help="print the summary as one line of JSON on standard output")
    return parser


def new_node_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """As `new_settings_parser`, for commands that run on and log meanwhile."""
    parser = new_settings_parser(name, description)
    parser.add_argument("--log-format", choices=["text", "json"], help="of the log on standard error (default text)")
    return parser


def flag_type(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """`parse` as the type of a flag: what its ValueError says reaches the user."""

    def read(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{error} (got {text!r})") from error

    return read


def command(name: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Make `main(argv)` end as every command does: whatever its user can act on is told without a traceback.

    The status is 2 for wrong settings, 1 for a failure, 130 after Ctrl-C, and 141 when whoever reads the output has
    left (`streamtok subscribe ... | head -1`). Errors of the program itself (TypeError, KeyError, ...) keep theirs.
    """

    def decorate(main: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(main)
        def run(argv: list[str] | None = None) -> int:
            share_cores()
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(errors="surrogateescape")  # names of files that are no UTF-8 go out as they are
            try:
                status = main(argv)
                sys.stdout.flush()  # a reader that has left is noticed here, not when the interpreter ends
                return status
            except KeyboardInterrupt:
                return 130
            except (OSError, ValueError, ImportError, RuntimeError) as error:
                if isinstance(error, BrokenPipeError) and reader_has_left():
                    return 141
                print(f"streamtok {name}: {without_password(str(error)) or type(error).__name__}", file=sys.stderr)
                return 2 if isinstance(error, SettingsError) else 1

        return run

    return decorate


def reader_has_left() -> bool:
    """Whether nobody reads standard output any more; what is still buffered for it then goes nowhere."""
    poll = select.poll()
    poll.register(1, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return True
