"""What every export is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ExportOptions:
    """What is exported and how it is cut.

    `streams` None is all; `window` grids make a WebDataset sample, `shard_samples` of those a shard; `fps` None takes
    what the files say, `task` is LeRobot's description of what happens; `video` decodes a picture per grid for LeRobot.
    """

    streams: Sequence[str] | None = None
    window: int = 16
    shard_samples: int = 1000
    fps: float | None = None
    task: str = "drive"
    video: bool = False
    model: str | None = None
    progress: bool = False
