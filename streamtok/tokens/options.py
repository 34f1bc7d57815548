"""The options of encoding into token files and of exporting them. This module loads quickly: it imports no model."""

from typing import Annotated

from streamtok.settings.fields import HOLD_HELP, Count, Flag, Hold, Model, Names, Positive, Size, Strict, Switch, option
from streamtok.settings.shared import ComputeSettings


class EncodeOptions(ComputeSettings):
    """How a file is encoded: frames are resized to `size` (H, W) first; `context` replaces the config's."""

    size: Size | None = option(None, "resize to this first (default: the video's own size)")
    hold: Hold = option(0.0, HOLD_HELP)
    max_frames: Count | None = option(None, "stop after so many frames")
    quiet: bool = True


class ExportOptions(Strict):
    """What is exported, and how it is split; `streams` None is all."""

    streams: Names | None = option(None, "repeat it; the first is the clock (default: all)")
    window: Count = option(16, "webdataset: grids per sample")
    shard_samples: Count = option(1000, "webdataset: samples per shard")
    fps: Annotated[Positive, Flag("FPS")] | None = option(None, "lerobot: grids per second (default: as recorded)")
    task: Annotated[str, Flag("TASK")] = option("drive", "lerobot: what happens, in words")
    video: Switch = option(False, "lerobot: also pictures, decoded from the tokens")
    model: Model | None = option(None, "lerobot: the model that decodes (default: the one that the source names)")
    quiet: bool = True
