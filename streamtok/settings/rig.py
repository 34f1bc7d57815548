"""The settings of an ingest node: its cameras, the model, where it publishes and records.

settings = load_rig("configs/rig_six_cameras.yaml", {"model": "small"})
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from streamtok.names import is_camera_path
from streamtok.settings.fields import (
    Bitrate,
    Count,
    Endpoint,
    Engine,
    FileOrFolder,
    Megabytes,
    Metadata,
    Model,
    Name,
    Port,
    Positive,
    SourceSpec,
    Switch,
    option,
)
from streamtok.settings.reading import read_settings
from streamtok.settings.shared import ComputeSettings, EncoderSettings, FrameSettings, PublishSettings


class StreamDefaults(FrameSettings):
    """Settings that are given for all streams under `defaults`, or for one stream."""

    realtime: Switch | None = option(None, "play recordings at their own pace (default: no)")
    policy: Literal["latest", "lossless"] | None = option(
        None, "latest: never behind; lossless: wait (default: by source)"
    )
    tail: Literal["pad", "drop"] = option("pad", "what becomes of the last, partial group")
    max_frames: Count | None = option(None, "end each source after N frames")
    bitrate: Bitrate | None = option(
        None, "limit of its messages, as 64k or 1.5M bits/s: by --hold up to 0.5 first (coded), then by dropping frames"
    )
    required: Switch = True
    metadata: Metadata = Field(default={})


class StreamSettings(StreamDefaults):
    """One camera: where its frames come from and how they are treated."""

    name: Name
    source: SourceSpec


class RigSettings(PublishSettings, ComputeSettings, EncoderSettings):
    """An ingest node. Sizes of recordings are in MB (10^6 bytes)."""

    node: Name = option("ingest", "name of this process in info and status")
    model: Model = option("nano", "preset name or checkpoint folder")
    engine: Engine | None = option(
        None,
        "auto: as measured once for this machine (default on a GPU); eager: PyTorch's layers; FILE: what "
        "auto has left (default on a CPU: our own layers in float32)",
    )
    threads: Count | None = option(None, "PyTorch's threads on a CPU (default: its own choice); tokens depend on it")
    batch_wait_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    bind: Endpoint = option("tcp://127.0.0.1:5555", "where to publish")
    compression: Literal["none", "zstd", "coded", "independent"] = option(
        "none", "of the tokens that are sent; coded: by the tokenizer's token coder, independent: each grid by itself"
    )
    rig_bitrate: Bitrate | None = option(
        None, "limit of all streams' messages together, shared at equal effort; see --bitrate"
    )
    record: FileOrFolder | None = option(None, "also write the token stream to an MCAP file, or a new one in a folder")
    record_frames: Literal["none", "lossless", "lossy"] = option(
        "lossless", "camera images in --record: lossless replays to the same tokens"
    )
    record_max_size: Megabytes | None = None
    record_max_minutes: Positive | None = None
    record_min_free: Annotated[float, Field(ge=0)] = 512
    metrics: Port | None = option(None, "Prometheus on 127.0.0.1:PORT, with /healthz and /readyz")
    metrics_address: str = "127.0.0.1"
    view: Port | None = option(None, "also show a page on 127.0.0.1:PORT, as `streamtok view` does")
    defaults: StreamDefaults = StreamDefaults()
    streams: Annotated[list[StreamSettings], Field(min_length=1)]

    @field_validator("streams")
    @classmethod
    def check_names(cls, streams: list[StreamSettings]) -> list[StreamSettings]:
        """Raise ValueError if two streams have the same name."""
        names = [stream.name for stream in streams]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"stream names must differ, {', '.join(twice)} is used more than once")
        return streams

    @model_validator(mode="after")
    def check_sources(self) -> "RigSettings":
        """Raise ValueError if two streams open the same camera."""
        devices = [stream.source.partition("?")[0] for stream in self.streams if is_camera_path(stream.source)]
        twice = sorted({device for device in devices if devices.count(device) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is the source of more than one stream; a camera opens only once")
        return self

    def resolved(self) -> list[StreamSettings]:
        """The streams, with `defaults` filled in for what a stream does not set."""
        common = self.defaults.model_dump(exclude_unset=True)
        return [StreamSettings(**common | stream.model_dump(exclude_unset=True)) for stream in self.streams]


def load_rig(
    path: str | Path | None, overrides: Mapping[str, Any] | None = None, every_stream: Mapping[str, Any] | None = None
) -> RigSettings:
    """Read a rig's YAML file (None: no file) with overrides on top.

    `overrides` are keyed by path ("streams.0.size"); `every_stream` is set for each stream. Raises SettingsError with
    every fault.
    """
    common = {f"streams.*.{key}": value for key, value in (every_stream or {}).items()}
    return read_settings(RigSettings, path, {**(overrides or {}), **common})
