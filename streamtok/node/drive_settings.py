"""The settings of `record` and `replay`: flags and YAML files, checked whole before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from streamtok.settings.rig import Count, Device, Endpoint, FrameSettings, Group, Name, NodeSettings, Positive

if TYPE_CHECKING:
    from streamtok.ingest.lane import StreamOptions
    from streamtok.recording.recorder import RecorderOptions


class RecordSettings(NodeSettings):
    """`streamtok record`: sizes in MB (10^6 bytes), times in minutes and seconds."""

    endpoint: Annotated[str, Field(min_length=1)]
    out: Path
    streams: list[str] | None = None
    record_frames: Literal["none", "lossless", "lossy"] = "none"
    pictures: bool = False
    max_size: Positive | None = None
    max_minutes: Positive | None = None
    min_free: Annotated[float, Field(ge=0)] = 512
    max_seconds: Positive | None = None
    until_end: bool = True
    curve: Path | None = None

    def recorder_options(self) -> RecorderOptions:
        """What the recorder needs of it."""
        from streamtok.recording.recorder import RecorderOptions

        return RecorderOptions.limited(
            self.record_frames, self.max_size, self.max_minutes, self.min_free, pictures=self.pictures
        )


class ReplaySettings(NodeSettings, FrameSettings):
    """`streamtok replay`: what to read, how to encode it, how fast, and where the tokens go."""

    path: Path
    streams: list[str] | None = None
    model: str | None = None
    device: Device = "auto"
    deterministic: bool | None = None
    context: Count | None = None
    verify: bool = False
    recorded_tokens: bool = False
    realtime: bool = False
    speed: Positive | None = None
    bind: Endpoint | None = None
    control: Endpoint | None = None
    wait_subscribers: Annotated[int, Field(ge=0)] = 0
    publish_frames: bool = False
    insecure: bool = False
    ipc_group: Group | None = None
    curve: Path | None = None
    node: Name = "replay"
    out: Path | None = None
    record: Path | None = None
    tail: Literal["pad", "drop"] = "pad"
    max_groups: Count | None = None

    @model_validator(mode="after")
    def fits_together(self) -> ReplaySettings:
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
        """Times real time; None for as fast as possible."""
        return 1.0 if self.realtime else self.speed

    def options(self) -> StreamOptions:
        """How a drive without recorded tokens is cut and sized."""
        from streamtok.ingest.lane import StreamOptions

        return StreamOptions("lossless", self.on_gap, self.tail, self.keyframe_interval, self.size, self.fit)
