"""What every export is asked for."""

from __future__ import annotations

from streamtok.settings.rig import Count, Positive, Strict


class ExportOptions(Strict):
    """What is exported and how it is cut.

    `streams` None is all; `window` grids make a WebDataset sample, `shard_samples` of those a shard; `fps` None takes
    what the files say, `task` is LeRobot's description of what happens; `video` decodes a picture per grid for LeRobot.
    """

    streams: list[str] | None = None
    window: Count = 16
    shard_samples: Count = 1000
    fps: Positive | None = None
    task: str = "drive"
    video: bool = False
    model: str | None = None
    progress: bool = False
