"""Export tokens for other tools: WebDataset shards, Parquet tables, or the LeRobot v3 layout.

    streamtok export recordings/ --to webdataset --out shards --window 16
    streamtok export drive.mcap --to parquet --out tables
    streamtok export drive.mcap --to lerobot --out dataset --task 'drive through the city' --video

The source is a token file, a recording, or a folder of these. Windows and episodes never continue across a gap.
"""

from typing import Annotated, Literal

from pydantic import Field

from streamtok.commands.command import make_main
from streamtok.settings.fields import Flag, Folder, Switch, Texts, option
from streamtok.settings.shared import CommandSettings
from streamtok.tokens.options import ExportOptions


class ExportSettings(CommandSettings, ExportOptions):
    """Flags of `streamtok export`."""

    source: Annotated[Texts, Field(min_length=1), Flag(positional=True)] = Field(
        description="token files, recordings, or folders of them"
    )
    to: Literal["webdataset", "parquet", "lerobot"] = Field(description="the format to write")
    out: Annotated[Folder, Flag(short="-o")] = Field(description="a new folder")
    quiet: Switch = option(False, "no progress bar")


def run(settings: ExportSettings) -> int:
    """Write the export and print its counts; returns 0."""
    from streamtok.tokens.export import export

    counts = export(settings.source, settings.out, settings.to, settings)
    words = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    print(settings.format_result(counts, f"{settings.out}: {words}"))
    return 0


main = make_main("export", ExportSettings, run, __doc__)
