"""The settings of `streamtok replay`: what to read, how to encode it, how fast, and where the tokens go."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from streamtok.settings.fields import (
    Count,
    Endpoint,
    FileOrFolder,
    Flag,
    Folder,
    Model,
    Name,
    Names,
    Positive,
    Switch,
    option,
)
from streamtok.settings.shared import DeviceSettings, EncoderSettings, FrameSettings, PublishSettings, ReadSettings


class ReplaySettings(FrameSettings, ReadSettings, PublishSettings, DeviceSettings, EncoderSettings):
    """One replay. `size`, `fit`, `on_gap`, `keyframe_interval` and `tail` apply to drives without recorded tokens."""

    path: Annotated[FileOrFolder, Flag("DRIVE", positional=True)] = Field(description="the drive: a file or a folder")
    streams: Names | None = option(None, "only this stream or topic (repeat it)")
    node: Name = option("replay", "name of this process in info")
    model: Model | None = option(None, "preset name or checkpoint folder (default: the recorded one, else nano)")
    deterministic: Switch | None = option(None, "bit-identical however frames are cut (default: as recorded)")
    verify: Switch = option(False, "compare with the recorded tokens; status 1 unless all are identical")
    recorded_tokens: Switch = option(False, "publish the recorded tokens instead of encoding again")
    realtime: Switch = option(False, "in real time (default: as fast as possible)")
    speed: Positive | None = option(None, "X times real time")
    bind: Endpoint | None = option(None, "publish here, as a live node does")
    out: Annotated[Folder, Flag(short="-o")] | None = option(None, "write token files, DIR/STREAM.safetensors")
    record: FileOrFolder | None = option(None, "record frames and tokens anew, to this file or a new one in a folder")
    tail: Literal["pad", "drop"] = option("pad", "what becomes of the last, partial group")
    max_groups: Count | None = option(None, "end after N groups")

    @model_validator(mode="after")
    def check_together(self) -> "ReplaySettings":
        """Raise ValueError for settings that exclude or need each other."""
        if self.verify and self.recorded_tokens:
            raise ValueError("verify encodes the frames again, recorded_tokens does not: choose one")
        if self.realtime and self.speed is not None:
            raise ValueError("realtime is speed 1: give one of them")
        if self.ipc_group is not None and not self.bind:
            raise ValueError(f"ipc_group {self.ipc_group!r} is for the sockets of bind: give bind (--bind ipc://PATH)")
        if self.recorded_tokens and not self.bind:
            raise ValueError("recorded_tokens publishes the recorded tokens again: give bind (--bind ENDPOINT)")
        if self.recorded_tokens and (self.out or self.record):
            raise ValueError("recorded_tokens writes no files: copy the recording, or use `streamtok export`")
        if (self.wait_subscribers or self.publish_frames) and not self.bind:
            raise ValueError("wait_subscribers and publish_frames need bind (--bind ENDPOINT)")
        return self

    @property
    def pace(self) -> float | None:
        """The speed as a multiple of real time; None is as fast as possible."""
        return 1.0 if self.realtime else self.speed
