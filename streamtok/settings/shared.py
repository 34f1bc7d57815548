"""Groups of settings that several commands share: frames, reading drives, the device, publishing."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from streamtok.settings.fields import (
    HOLD_HELP,
    Count,
    Device,
    Endpoint,
    Flag,
    Folder,
    Group,
    Hold,
    Model,
    Name,
    Range,
    Size,
    Strict,
    Switch,
    Whole,
    option,
)

MAX_PIXELS = 1 << 21  # of a live picture: 1080p has fewer; the network needs some 600 bytes for each


class CommandSettings(Strict):
    """Settings of a command. A field with a description is a flag."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    as_json: Switch = Field(
        default=False, alias="json", description="print the result as one line of JSON on standard output"
    )

    def format_result(self, facts: Mapping[str, Any], words: str) -> str:
        """The result as text: `facts` as one line of JSON with --json, else `words`."""
        return json.dumps(facts) if self.as_json else words


class NodeSettings(CommandSettings):
    """Settings of a command that keeps running and logs meanwhile."""

    log_format: Literal["text", "json"] = option("text", "format of the log on standard error")


class EncoderSettings(NodeSettings):
    """The name and the model of a node that encodes."""

    node: Name
    model: Model | None = None


class FrameSettings(Strict):
    """How frames are sized and cut into groups, live and from recordings."""

    size: Size | None = option(None, "resize to this height and width (default: the source's, padded to the grid)")
    fit: Literal["stretch", "crop", "pad"] = option("stretch", "how --size treats another aspect ratio")
    on_gap: Literal["reset", "bridge"] = option("reset", "missing frames: new keyframe, or go on without one")
    keyframe_drift: Annotated[float, Field(gt=0, le=1), Flag("SHARE")] | None = option(
        None, "also a keyframe once this share of tokens differs from the last keyframe (0.9), at most one a second"
    )
    hold: Hold | None = option(None, HOLD_HELP)
    keyframe_interval: Annotated[float, Field(ge=0, allow_inf_nan=False), Flag("SECONDS")] = option(
        10.0, "capture time between keyframes, 0 for never"
    )


class ReadSettings(Strict):
    """How recorded drives are read."""

    clock: Literal["auto", "header", "publish", "log"] = option(
        "auto", "time of images in messages (auto: the first of these that is usable; info says which)"
    )
    depth_range: Range | None = option(
        None, "make pictures of depth images, near is bright; without it they are left out"
    )


class DeviceSettings(Strict):
    """Where the network runs, and how far its attention looks back."""

    device: Device = option("auto", "where the network runs: auto, cpu, cuda or cuda:N")
    context: Annotated[Count, Flag("STEPS")] | None = option(None, "attention window in groups (default: the model's)")


class ComputeSettings(DeviceSettings):
    """How tokens are computed."""

    deterministic: Switch = option(False, "bit-identical tokens however the frames are cut")


class PublishSettings(Strict):
    """How a node publishes, apart from the address that it binds."""

    control: Endpoint | None = option(None, "control socket (default: beside --bind, named in info)")
    wait_subscribers: Whole = option(0, "hold the first frame until N readers have joined")
    publish_frames: Switch = option(False, "also send the camera images, on frames/<stream>")
    curve: Folder | None = option(None, "keys of this node, from `streamtok keys generate`")
    insecure: Switch = option(False, "allow a network address without keys")
    ipc_group: Group | None = option(None, "who may connect to ipc sockets besides this user (default: nobody)")
