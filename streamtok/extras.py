"""What to install for a part of streamtok that does not come with it: an extra of pyproject.toml."""

import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"  # of a checkout


def missing_extra(purpose: str, extra: str) -> ImportError:
    """The error for `purpose` ("the live page") without its extra; it names the command that installs that."""
    return ImportError(f"{purpose} needs the extra {extra!r}: {install_command(extra)}")


@contextmanager
def needs_extra(purpose: str, extra: str) -> Iterator[None]:
    """An import that fails in the block is a `missing_extra`."""
    try:
        yield
    except ImportError as error:
        raise missing_extra(purpose, extra) from error


def install_command(extra: str) -> str:
    """The command that installs an extra; it lists the packages, so that it works beside a checkout and a wheel."""
    packages = " ".join(f"'{name}'" for name in list_packages(extra)) or f"'streamtok[{extra}]'"
    return f"{_find_installer()} {packages}"


def _find_installer() -> str:
    """What installs into this Python: pipx and `uv tool` make environments without pip, and say so in a file."""
    prefix = Path(sys.prefix)
    if (prefix / "pipx_metadata.json").is_file():
        return "pipx inject streamtok"
    return f"uv pip install --python {prefix}" if (prefix / "uv-receipt.toml").is_file() else "pip install"


def list_packages(extra: str) -> list[str]:
    """The requirements of an extra, as the checkout says, else as the installed package does."""
    if PROJECT.is_file():
        return list(tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"].get(extra, []))
    try:
        lines = requires("streamtok") or []
    except PackageNotFoundError:  # a plain copy of the sources
        return []
    split = [line.replace("'", '"').partition(";") for line in lines]
    return [name.strip() for name, _, mark in split if f'extra == "{extra}"' in mark]
