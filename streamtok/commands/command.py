"""The frame of every command: settings from the command line, signals, errors as one line, and the exit status."""

import errno
import functools
import importlib
import io
import os
import re
import select
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from streamtok.commands.flags import parse_settings
from streamtok.node.logs import log_to_stderr
from streamtok.node.process import share_cores, stop_on_signals
from streamtok.redaction import clean_text
from streamtok.settings.errors import SettingsError
from streamtok.settings.reading import Kind
from streamtok.settings.shared import NodeSettings

# Words of libraries that get no memory and do not raise MemoryError.
NO_MEMORY = re.compile("allocate memory|bad_alloc|failed to map segment")
Main = Callable[..., int]  # of (argv: list[str] | None = None)


def make_main(name: str, kind: type[Kind], run: Callable[[Kind], int], words: str | None) -> Main:
    """Make `main(argv)` of `streamtok NAME`: it parses settings of a `kind` and calls `run`; `words` are its help."""

    @command(name)
    def main(argv: list[str] | None = None) -> int:
        return run(parse_settings(kind, name, words, argv))

    return main


def command(name: str) -> Callable[[Main], Main]:
    """Decorate `main(argv)` so that an error that its user can act on is one line on stderr, not a traceback.

    The status is 2 for wrong settings, 1 for a failure, 130 after Ctrl-C, and 141 if the reader of the output has gone:
    `streamtok subscribe ... | head -1`. Bugs of the program (TypeError, KeyError, ...) keep their traceback.
    `python -m streamtok.commands.NAME` runs the same command.
    """
    started = getattr(sys.modules["__main__"].__spec__, "name", "")
    if started.startswith("streamtok.commands.") and started not in sys.modules:
        sys.exit(importlib.import_module(started).main())

    def decorate(main: Main) -> Main:
        @functools.wraps(main)
        def run(argv: list[str] | None = None) -> int:
            share_cores()
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(errors="surrogateescape")  # file names that are not UTF-8 keep their bytes
            try:
                status = main(argv)
                sys.stdout.flush()  # fails here if the reader has gone, not when the interpreter exits
                return status
            except KeyboardInterrupt:
                return 130
            except (OSError, ValueError, ImportError, RuntimeError, MemoryError) as error:
                return tell_error(name, error)

        return run

    return decorate


@contextmanager
def until_stopped(settings: NodeSettings, begun: threading.Event | None = None) -> Iterator[threading.Event]:
    """Set up logging, and yield an event that is set on SIGINT or SIGTERM (see `stop_on_signals`).

    Until `begun` is set, which is while the command imports and loads, the process ends at once instead.
    """
    log_to_stderr(settings.log_format)
    stop = threading.Event()
    with stop_on_signals(stop.set, at_stake=begun.is_set if begun else lambda: True):
        yield stop


def tell_error(name: str, error: Exception) -> int:
    """Print one line on why a command fails; returns its exit status."""
    if isinstance(error, BrokenPipeError) and reader_has_left():
        return 141
    reason = clean_text(str(error)) or type(error).__name__
    told = isinstance(error, RuntimeError | ImportError) and NO_MEMORY.search(reason)  # others may quote a file's name
    if told or isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        reason = f"out of memory ({reason}): raise the limit (ulimit -v, a container's) or take a smaller size or model"
    elif isinstance(error, RuntimeError) and "start new thread" in reason:
        reason += ": raise the limit on tasks (ulimit -u, a container's pids) or on memory (ulimit -v)"
    print(f"streamtok {name}: {reason}", file=sys.stderr)
    return 2 if isinstance(error, SettingsError) else 1


def reader_has_left() -> bool:
    """Whether the reader of standard output has gone; if so, output that is still buffered is discarded."""
    poll = select.poll()
    poll.register(1, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return True
