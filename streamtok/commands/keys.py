"""Make CURVE keys for secure streams, and let readers in.

    streamtok keys generate --out keys               a key pair for the node and one for a reader named "client"
    streamtok keys generate --out keys --name laptop one more reader
    streamtok keys allow laptop.key --out keys       let in a reader whose keys were made elsewhere

The node runs with `streamtok ingest --curve keys ...`. A reader runs with `streamtok subscribe --curve FOLDER ...`: its
folder holds `server.key` and its own key, `laptop.key_secret`, copied under the name `client.key_secret`. Removing a
file from `keys/allowed` shuts that reader out within a second.
"""

import argparse
from pathlib import Path
from typing import Annotated

from pydantic import Field

from streamtok.commands.command import command
from streamtok.commands.flags import add_flags, new_plain_parser
from streamtok.settings.fields import Flag, Folder, Paths, Strict, option
from streamtok.settings.reading import read_settings


class KeySettings(Strict):
    """Flags of both sub-commands."""

    out: Annotated[Folder, Flag(short="-o")] = option(Path("keys"), "the node's key folder")


class GenerateSettings(KeySettings):
    """Flags of `streamtok keys generate`."""

    name: Annotated[str, Flag("NAME")] = option("client", "name of the reader's keys")


class AllowSettings(KeySettings):
    """Flags of `streamtok keys allow`."""

    key: Annotated[Paths, Flag("FILE.key", positional=True)] = Field(description="public key file of a reader")


def new_keys_parser() -> argparse.ArgumentParser:
    """Make a parser with the two sub-commands."""
    parser = new_plain_parser("keys", __doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_flags(commands.add_parser("generate", help="make keys for the node (once) and for a reader"), GenerateSettings)
    add_flags(commands.add_parser("allow", help="let a reader in by its public key file"), AllowSettings)
    return parser


@command("keys")
def main(argv: list[str] | None = None) -> int:
    """Make or allow keys; returns 0 if it worked, 1 with one line on stderr if not, 2 for a usage error."""
    given = vars(new_keys_parser().parse_args(argv))
    kind: type[GenerateSettings | AllowSettings]
    kind = GenerateSettings if given.pop("command") == "generate" else AllowSettings
    return run(read_settings(kind, None, given))


def run(settings: GenerateSettings | AllowSettings) -> int:
    """Run one of the sub-commands, and print the files that it wrote; returns 0."""
    from streamtok.wire.security import allow, generate

    if isinstance(settings, GenerateSettings):
        made = generate(settings.out, settings.name)
    else:
        made = [allow(key, settings.out) for key in settings.key]
    print("\n".join(map(str, made)))
    return 0
