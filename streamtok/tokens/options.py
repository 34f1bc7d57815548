"""What encoding into token files and exporting them are told; no model is needed to say it."""

from typing import Annotated

from pydantic import Field

from streamtok.settings.fields import HOLD_HELP, Count, Flag, Hold, Model, Names, Positive, Size, Strict, Switch
from streamtok.settings.shared import ComputeSettings


class EncodeOptions(ComputeSettings):
    """How a file is encoded: `size` (H, W) resizes first, `context` replaces the config's."""

    size: Size | None = Field(default=None, description="resize to this first (default: the video's own size)")
    hold: Hold = Field(default=0.0, description=HOLD_HELP)
    max_frames: Count | None = Field(default=None, description="stop after so many frames")
    progress: bool = False


class ExportOptions(Strict):
    """What is exported and how it is cut; `streams` None is all."""

    streams: Names | None = Field(default=None, description="repeat it; the first is the clock (default: all)")
    window: Count = Field(default=16, description="webdataset: grids per sample")
    shard_samples: Count = Field(default=1000, description="webdataset: samples per shard")
    fps: Annotated[Positive, Flag("FPS")] | None = Field(
        default=None, description="lerobot: grids per second (default: as recorded)"
    )
    task: Annotated[str, Flag("TASK")] = Field(default="drive", description="lerobot: what happens, in words")
    video: Switch = Field(default=False, description="lerobot: also pictures, decoded from the tokens")
    model: Model | None = Field(
        default=None, description="lerobot: the model that decodes (default: the one that the source names)"
    )
    progress: bool = False
