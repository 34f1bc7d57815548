"""What commands are told: flags and YAML files, checked whole before anything starts.

    settings = load_rig("configs/rig_six_cameras.yaml", {"model": "small"})
    settings = settings_of(ReplaySettings, "replay.yaml", {"speed": 2})

A mistake is a `SettingsError` that lists every fault at once: file and line, path in the file, the value found, what is
allowed and the nearest valid key.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    field_validator,
    model_validator,
)

from streamtok.names import NAME, is_camera_path, nearest, parse_device, parse_size, without_password
from streamtok.settings.errors import SettingsError
from streamtok.settings.yaml_file import put, read_yaml

MAX_METADATA = 1 << 15  # bytes as msgpack: half of what a header may have, so that the rest of an info has room
ENDPOINT = re.compile(r"(?:tcp://[^:/\s]+|tcp://\[[0-9A-Fa-f:]+\]):(\d{1,5}|\*)|(?:ipc|inproc)://.+")


def read_size(value: Any) -> tuple[int, int]:
    """ "256x448" or [256, 448] (height, width) as a pair."""
    return parse_size("x".join(map(str, value)) if isinstance(value, list | tuple) else str(value))


def check_endpoint(value: str) -> str:
    """A ZeroMQ endpoint to bind."""
    match = ENDPOINT.fullmatch(value) if isinstance(value, str) else None
    if isinstance(value, str) and match is None:
        raise ValueError("expected tcp://ADDRESS:PORT or ipc://PATH")
    if match is not None and (match[1] or "*") != "*" and int(match[1]) > 65535:  # libzmq would take it modulo 65536
        raise ValueError("expected a port up to 65535")
    return value


def check_metadata(value: dict[str, Any]) -> dict[str, Any]:
    """Facts of a stream's owner that `info` can carry: text keys; text, numbers, booleans, lists and maps of them."""
    try:
        check_plain(value, "")
    except RecursionError as error:
        raise ValueError("expected maps and lists that do not hold themselves") from error
    size = len(msgspec.msgpack.encode(value))
    if size > MAX_METADATA:
        raise ValueError(f"expected at most {MAX_METADATA} bytes (as msgpack), this has {size}")
    return value


def check_plain(value: Any, where: str) -> None:
    """ValueError that names the first place where a value is not of a kind that every msgpack library and JSON have."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"keys are text, put {key!r}{where} in quotes")
            check_plain(item, f" at {key}{where}")
    elif isinstance(value, list):
        for item in value:
            check_plain(item, where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"numbers are finite, found {value}{where}")
    elif isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise ValueError(f"integers have 64 bits, found {value}{where}")
    elif not isinstance(value, str | int | float):
        kind = "nothing" if value is None else type(value).__name__
        raise ValueError(f"expected text, numbers, booleans, lists and maps, found {kind}{where}; put text in quotes")


Size = Annotated[tuple[int, int], BeforeValidator(read_size)]
Endpoint = Annotated[str, BeforeValidator(check_endpoint)]
Metadata = Annotated[dict[str, Any], AfterValidator(check_metadata)]
Device = Annotated[str, AfterValidator(parse_device)]
Name = Annotated[str, Field(pattern=f"^{NAME}$")]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
SourceSpec = Annotated[str, Field(min_length=1), PlainSerializer(without_password, when_used="json")]  # for recordings
Group = Annotated[str, Field(min_length=1, coerce_numbers_to_str=True)]
Port = Annotated[int, Field(ge=0, le=65535)]


class Strict(BaseModel):
    """Refuses unknown keys and does not guess types."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Kind = TypeVar("Kind", bound=Strict)


class CommandSettings(Strict):
    """What a command is told, by the names of its flags."""

    model_config = ConfigDict(populate_by_name=True)

    as_json: bool = Field(default=False, alias="json")


class NodeSettings(CommandSettings):
    """A command that runs on and logs meanwhile."""

    log_format: Literal["text", "json"] = "text"


class FrameSettings(Strict):
    """How frames are sized and cut into groups, live and from recordings."""

    size: Size | None = None
    fit: Literal["stretch", "crop", "pad"] = "stretch"
    on_gap: Literal["reset", "bridge"] = "reset"
    keyframe_interval: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 10.0


class StreamDefaults(FrameSettings):
    """What may be set for all streams under `defaults`, or for one stream."""

    realtime: bool | None = None
    policy: Literal["latest", "lossless"] | None = None
    tail: Literal["pad", "drop"] = "pad"
    max_frames: Count | None = None
    required: bool = True
    metadata: Metadata = {}


class StreamSettings(StreamDefaults):
    """One camera: where its frames come from and how they are treated."""

    name: Name
    source: SourceSpec


class RigSettings(NodeSettings):
    """An ingest node: its cameras, the model, where it publishes. Sizes of recordings are in MB (10^6 bytes)."""

    node: Name = "ingest"
    model: Annotated[str, Field(min_length=1)] = "nano"
    device: Device = "auto"
    engine: Annotated[str, Field(min_length=1)] | None = None
    deterministic: bool = False
    threads: Count | None = None
    context: Count | None = None
    batch_wait_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    bind: Endpoint = "tcp://127.0.0.1:5555"
    control: Endpoint | None = None
    curve: Path | None = None
    insecure: bool = False
    ipc_group: Group | None = None
    compression: Literal["none", "zstd"] = "none"
    wait_subscribers: Annotated[int, Field(ge=0)] = 0
    publish_frames: bool = False
    record: Path | None = None
    record_frames: Literal["none", "lossless", "lossy"] = "lossless"
    record_max_size: Positive | None = None
    record_max_minutes: Positive | None = None
    record_min_free: Annotated[float, Field(ge=0)] = 512
    metrics: Port | None = None
    metrics_address: str = "127.0.0.1"
    defaults: StreamDefaults = StreamDefaults()
    streams: Annotated[list[StreamSettings], Field(min_length=1)]

    @field_validator("streams")
    @classmethod
    def names_differ(cls, streams: list[StreamSettings]) -> list[StreamSettings]:
        names = [stream.name for stream in streams]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"stream names must differ, {', '.join(twice)} is used more than once")
        return streams

    @model_validator(mode="after")
    def sources_differ(self) -> "RigSettings":
        devices = [stream.source.partition("?")[0] for stream in self.streams if is_camera_path(stream.source)]
        twice = sorted({device for device in devices if devices.count(device) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is the source of more than one stream; a camera opens only once")
        return self

    def resolved(self) -> list[StreamSettings]:
        """The streams, with `defaults` filled in where a stream does not say."""
        common = self.defaults.model_dump(exclude_unset=True)
        return [StreamSettings(**common | stream.model_dump(exclude_unset=True)) for stream in self.streams]


def load_rig(
    path: str | Path | None,
    overrides: Mapping[str, Any] | None = None,
    every_stream: Mapping[str, Any] | None = None,
) -> RigSettings:
    """Read a rig's YAML file (None: start from nothing) and put on top `overrides`, keyed by path ("streams.0.size"),
    and `every_stream`, which is set for each of its streams.

    Raises SettingsError with every fault.
    """
    given = dict(overrides or {})
    streams = given.get("streams") or (read_yaml(path)[0].get("streams") if path is not None else None)
    for index in range(len(streams) if isinstance(streams, list) else 0):
        given |= {f"streams.{index}.{key}": value for key, value in (every_stream or {}).items()}
    return settings_of(RigSettings, path, given)


def settings_of(kind: type[Kind], path: str | Path | None, given: Mapping[str, Any]) -> Kind:
    """Settings from a YAML file (None: no file) with what is `given` on top, keyed by path ("streams.0.size").

    Raises SettingsError with every fault.
    """
    values, lines = read_yaml(path) if path is not None else ({}, {})
    for key, value in given.items():
        put(values, key, value)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        name = "command line" if path is None else str(path)
        faults = [describe(fault, kind, name, lines, set(given)) for fault in error.errors()]
    raise SettingsError("\n".join(dict.fromkeys(faults)))


def describe(fault: Any, model: type[BaseModel], name: str, lines: dict[tuple, int], given: set[str]) -> str:
    """One line: where, what was found, what is allowed."""
    where = tuple(part for part in fault["loc"] if not str(part).startswith(("function-", "constrained-")))
    path = ".".join(map(str, where)) or "the whole"
    origin = "command line" if any(path == key or path.startswith(f"{key}.") for key in given) else name
    line = next((lines[where[:end]] for end in range(len(where), 0, -1) if where[:end] in lines), None)
    place = f"{origin}:{line}" if origin == name and line else origin
    if fault["type"] == "extra_forbidden":
        hint = nearest(str(where[-1]), keys_at(model, where[:-1]))
        return f"{place}: {path}: unknown key (value {fault['input']!r}); {hint}"
    if fault["type"] == "missing":
        return f"{place}: {path}: required, not given"
    message = fault["msg"].removeprefix("Value error, ").replace(" for <class 'pathlib.Path'>", "")
    long = isinstance(fault["input"], dict | list) and len(fault["input"]) > 4
    found = "" if long or not where else f" (got {fault['input']!r})"
    return f"{place}: {path}: {message[:1].lower() + message[1:]}{found}"


def keys_at(model: type[BaseModel], where: tuple) -> list[str]:
    """The keys that are allowed at a path of the model."""
    for part in where:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        for candidate in (annotation, *getattr(annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
    return [field.alias or name for name, field in model.model_fields.items()]
