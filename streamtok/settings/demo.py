"""The settings of `streamtok demo`."""

from pathlib import Path
from typing import Annotated

from streamtok.settings.fields import Count, Device, Flag, Folder, Model, Seconds, Size, SourceSpec, option
from streamtok.settings.shared import CommandSettings


class DemoSettings(CommandSettings):
    """What to show: `source` and `model` as `streamtok ingest` takes them, `size` (H, W) or None for a suitable one.

    The node is told to stop after `max_frames` or `max_seconds`, whichever comes first.
    """

    source: SourceSpec = option("synthetic:256x448@30?seed=7&frames=301", "what ingest takes")
    model: Model = option("nano", "preset name or checkpoint folder")
    out: Annotated[Folder, Flag(short="-o")] = option(Path("out/demo"), "where the pictures go")
    size: Size | None = option(None, "resize to this (default: large sources to about 256x448)")
    max_frames: Count = option(301, "end after N frames")
    max_seconds: Seconds = option(100.0, "end after this time")
    device: Device = option("auto", "auto, cpu, cuda or cuda:N")
