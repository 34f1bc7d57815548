"""CURVE keys for secure streams.

    streamtok keys generate --out keys               a key pair for the node and one for a reader named "client"
    streamtok keys generate --out keys --name laptop one more reader
    streamtok keys allow laptop.key --out keys       let in a reader whose keys were made elsewhere

The node runs with `streamtok ingest --curve keys ...`. A reader needs two files of that folder, `client.key_secret`
and `server.key`, and runs with `streamtok subscribe --curve FOLDER ...`. Removing a file from `keys/allowed` shuts
that reader out from its next connection on.
"""

import argparse
import sys

from streamtok.commands.command import command, new_parser


def build_parser() -> argparse.ArgumentParser:
    """`generate` and `allow`."""
    parser = new_parser("keys", __doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    generate = commands.add_parser("generate", help="make keys for the node (once) and for a reader")
    generate.add_argument("-o", "--out", default="keys", metavar="DIR", help="folder for the keys (default keys)")
    generate.add_argument("--name", default="client", help="name of the reader's keys (default client)")
    allow = commands.add_parser("allow", help="let a reader in by its public key file")
    allow.add_argument("key", nargs="+", metavar="FILE.key", help="public key file of a reader")
    allow.add_argument("-o", "--out", default="keys", metavar="DIR", help="the node's key folder (default keys)")
    return parser


@command("keys")
def main(argv: list[str] | None = None) -> int:
    """Make or allow keys; 0 if it worked, 1 with one line on standard error if not, 2 for wrong use."""
    arguments = build_parser().parse_args(argv)
    from streamtok.wire.security import allow, generate

    if arguments.command == "generate":
        made = generate(arguments.out, arguments.name)
    else:
        made = [allow(key, arguments.out) for key in arguments.key]
    print("\n".join(map(str, made)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
