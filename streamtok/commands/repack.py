"""Code the tokens of a file losslessly to fewer bytes, or make them plain again; they stay bit-identical.

    streamtok repack drive.safetensors -o small/drive.safetensors
    streamtok repack drive.mcap -o small.mcap --compression independent
    streamtok repack small.mcap -o plain.mcap --compression none

All commands read token files and recordings with coded tokens as they read plain ones (docs/narrow-link.md).
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from streamtok.commands.command import make_main
from streamtok.settings.fields import File, FileOrFolder, Flag, option
from streamtok.settings.shared import CommandSettings
from streamtok.tokens.repack import repack


class RepackSettings(CommandSettings):
    """Flags of `streamtok repack`."""

    path: Annotated[File, Flag(positional=True)] = Field(description="a token file or an MCAP file")
    out: Annotated[File, Flag(short="-o")] = Field(description="the file to write (never overwrites one)")
    compression: Literal["coded", "independent", "none"] = option(
        "coded", "coded: from the grids before; independent: each grid by itself; none: plain"
    )
    coder: FileOrFolder | None = option(None, "coder.safetensors, or its folder (default: the one that ships)")


def run(settings: RepackSettings) -> int:
    """Write the file with its tokens recoded, and print both sizes; returns 0."""
    before, after = repack(Path(settings.path), Path(settings.out), settings.compression, settings.coder)
    words = f"{settings.out}: {after / 1e6:.2f} MB, {after / before:.2f} of {settings.path}"
    print(settings.format_result({"out": str(settings.out), "bytes_before": before, "bytes": after}, words))
    return 0


main = make_main("repack", RepackSettings, run, __doc__)
