"""Recover a recording that was cut off.

    streamtok repair drive.mcap
    streamtok repair drive.mcap -o recovered.mcap

Everything that can still be read, attachments and metadata too, goes into a new MCAP file with an index (default:
drive_repaired.mcap). The old file is not changed; commands that are given both files leave it out. Replay and info can
read a cut-off file, too: repair is for other programs, and for speed. Status 1: nothing could be recovered.
"""

from typing import Annotated

from pydantic import Field

from streamtok.commands.command import make_main
from streamtok.recording.repair import repair
from streamtok.settings.fields import File, Flag, option
from streamtok.settings.shared import CommandSettings


class RepairSettings(CommandSettings):
    """Flags of `streamtok repair`."""

    path: Annotated[File, Flag(positional=True)] = Field(description="the MCAP file")
    out: Annotated[File, Flag(short="-o")] | None = option(None, "the file to write (never overwrites one)")


def run(settings: RepairSettings) -> int:
    """Repair one file; returns 0 if it was repaired or intact; raises if nothing could be recovered."""
    done = repair(settings.path, settings.out)
    out = None if done.path is None else str(done.path)
    lines = [f"{settings.path}: nothing to repair ({done.messages} messages)"]
    if out is not None:
        lines = [*(f"{settings.path}: {text}" for text in done.damage), f"{done.messages} messages recovered to {out}"]
    facts = {"out": out, "messages": done.messages, "damage": done.damage}
    print(settings.format_result(facts, "\n".join(lines)))
    return 0


main = make_main("repair", RepairSettings, run, __doc__)
