"""The settings of `streamtok decode`: a token file or a live stream, and where its pictures go."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from streamtok.settings.fields import Count, Device, Flag, Folder, Model, Seconds, Switch, option
from streamtok.settings.shared import NodeSettings

MAX_PIXELS = 1 << 21
LIVE_ONLY = "stream", "join", "timeout", "across_losses", "curve", "max_pixels"


class DecodeSettings(NodeSettings):
    """What to decode and where to: `out` is "window", "zmq:ENDPOINT", or a name that `open_pictures` knows.

    `stream` None takes the first stream that the node names; `join` is that of `streamtok.subscribe`.
    """

    input: Annotated[str, Flag("INPUT", positional=True)] = Field(description="a token file, or the endpoint of a node")
    out: Annotated[str, Flag("OUT", short="-o")] = option(
        "window", "FILE.mp4 (.mkv, .mov), FILE.png, a folder for PNGs; live also window or zmq:ENDPOINT"
    )
    model: Model | None = option(None, "preset or checkpoint (default: the one that the file or stream names)")
    device: Device = option("auto", "auto, cpu, cuda or cuda:N")
    stream: Annotated[str, Flag("NAME")] | None = option(None, "live: which stream of the node (default: the first)")
    join: Literal["epoch", "keyframe"] = option("epoch", "live: start at once, or at the next keyframe")
    timeout: Seconds | None = option(None, "live: fail if no stream has come for this long (default: wait)")
    across_losses: Switch = option(False, "live: go on after a loss, with wrong pictures for a while")
    curve: Folder | None = option(None, "live: this reader's keys, from `streamtok keys generate`")
    max_pixels: Count = option(MAX_PIXELS, "live: leave out larger pictures; each pixel takes some 600 bytes")
    max_frames: Count | None = option(None, "stop after N pictures")
    quiet: Switch = option(False, "no progress bar")

    @property
    def live(self) -> bool:
        """Whether the input is a node, not a token file."""
        return self.input.startswith(("tcp://", "ipc://", "inproc://"))

    @model_validator(mode="after")
    def check_together(self) -> "DecodeSettings":
        """ValueError for flags that only live streams have, and a file is given."""
        if self.live:
            return self
        given = [name for name in LIVE_ONLY if name in self.model_fields_set]
        if given:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ValueError(f"{flags}: only for a live stream, and {self.input!r} is a token file; leave it out")
        if self.out == "window":
            raise ValueError("give out (-o FILE.mp4, FILE.png or a folder): a token file has no window")
        return self
