"""The error for a wrong configuration. Needs only the standard library."""

from collections.abc import Iterator
from contextlib import contextmanager


class SettingsError(ValueError):
    """A configuration is wrong; the message has one line for each fault."""


@contextmanager
def blame_settings() -> Iterator[None]:
    """Turn a ValueError within the block into a SettingsError: the same settings would fail at every start.

    Faults that may pass (a device that is not there, a port that is taken) are OSErrors and stay such.
    """
    try:
        yield
    except SettingsError:
        raise
    except ValueError as error:
        raise SettingsError(str(error)) from error
