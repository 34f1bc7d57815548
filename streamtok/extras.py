"""Optional dependencies: errors that say which extra of pyproject.toml is missing, and how to install it."""

import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"  # exists in a checkout only


@contextmanager
def needs_extra(purpose: str, extra: str) -> Iterator[None]:
    """Turn an ImportError within the block into one that says what `purpose` ("the live page") needs, and the command
    that installs it."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{purpose} needs the extra {extra!r}: {install_command(extra)}") from error


@cache  # computed once, since a hostile sender can ask for an extra with every message
def install_command(extra: str) -> str:
    """The command that installs an extra. It lists the packages, so it works for a checkout and for a wheel."""
    packages = " ".join(f"'{name}'" for name in list_packages(extra)) or f"'streamtok[{extra}]'"
    return f"{_find_installer()} {packages}"


def _find_installer() -> str:
    """The installer of this Python environment; pipx and `uv tool` make ones without pip, and leave a file there."""
    prefix = Path(sys.prefix)
    if (prefix / "pipx_metadata.json").is_file():
        return "pipx inject streamtok"
    return f"uv pip install --python {prefix}" if (prefix / "uv-receipt.toml").is_file() else "pip install"


def list_packages(extra: str) -> list[str]:
    """The requirements of an extra, from the checkout's pyproject.toml, else from the installed package."""
    if PROJECT.is_file():
        return list(tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"].get(extra, []))
    try:
        lines = requires("streamtok") or []
    except PackageNotFoundError:  # a plain copy of the sources
        return []
    split = [line.replace("'", '"').partition(";") for line in lines]
    return [name.strip() for name, _, mark in split if f'extra == "{extra}"' in mark]
