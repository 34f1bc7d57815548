"""The settings of `streamtok demo`."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from streamtok.settings.fields import Count, Device, Flag, Folder, Model, Seconds, Size, SourceSpec
from streamtok.settings.shared import CommandSettings


class DemoSettings(CommandSettings):
    """What to show: `source` and `model` as `streamtok ingest` takes them, `size` (H, W) or None for a suitable one.

    The node is told to stop after `max_frames` or `max_seconds`, whichever comes first.
    """

    source: SourceSpec = Field(default="synthetic:256x448@30?seed=7&frames=301", description="what ingest takes")
    model: Model = Field(default="nano", description="preset name or checkpoint folder")
    out: Annotated[Folder, Flag(short="-o")] = Field(default=Path("out/demo"), description="where the pictures go")
    size: Size | None = Field(default=None, description="resize to this (default: large sources to about 256x448)")
    max_frames: Count = Field(default=301, description="end after N frames")
    max_seconds: Seconds = Field(default=100.0, description="end after this time")
    device: Device = Field(default="auto", description="auto, cpu, cuda or cuda:N")
