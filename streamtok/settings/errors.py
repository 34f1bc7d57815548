"""The error for whatever is wrong with a configuration. Needs only the standard library."""

from collections.abc import Iterator
from contextlib import contextmanager


class SettingsError(ValueError):
    """Everything that is wrong with a configuration, one line each."""


@contextmanager
def blame_settings() -> Iterator[None]:
    """Turn a ValueError into a SettingsError, around code that builds from settings: it would fail at every start.

    What may heal by itself (a device that is not there, a port that is taken) is an OSError and stays one.
    """
    try:
        yield
    except SettingsError:
        raise
    except ValueError as error:
        raise SettingsError(str(error)) from error
