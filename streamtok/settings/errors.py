"""The error for whatever is wrong with a configuration. Needs only the standard library."""

from collections.abc import Iterator
from contextlib import contextmanager


class SettingsError(ValueError):
    """Everything that is wrong with a configuration, one line each."""


@contextmanager
def blame_settings() -> Iterator[None]:
    """Make a ValueError a SettingsError: around what makes things of settings, and would fail alike at each start.

    What may heal by itself (a device that is not there, a port that is taken) is an OSError and stays one.
    """
    try:
        yield
    except SettingsError:
        raise
    except ValueError as error:
        raise SettingsError(str(error)) from error
