"""Field types of settings: which values each accepts, and how it is written on a command line."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from streamtok.names import NAME, parse_device, parse_endpoint, parse_size
from streamtok.redaction import without_password

Value = TypeVar("Value")
MAX_METADATA = 1 << 15  # bytes as msgpack: half of what a header may have, so that the rest of an info has room


class Strict(BaseModel):
    """Refuses unknown keys and does not guess types."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


@dataclass(frozen=True)
class Flag:
    """How a field is written on a command line, where its name and type do not say so.

    `metavar` stands for the value in the help, `short` is a short name ("-o"), `long` replaces the name made from the
    field's ("--stream" for `streams`). `nargs` is argparse's.
    """

    metavar: str = ""
    short: str = ""
    long: str = ""
    nargs: str = ""
    positional: bool = False


def option(default: Value, description: str) -> Value:
    """A field with a default that is also a flag; `description` is the flag's help."""
    return Field(default=default, description=description)


def read_size(value: object) -> tuple[int, int]:
    """Parse "256x448" or [256, 448] as (height, width)."""
    return parse_size("x".join(map(str, value)) if isinstance(value, list | tuple) else str(value))


def read_range(value: object) -> tuple[float, float]:
    """Parse "0.3:10" or [0.3, 10] as (near, far) in metres, 0 <= near < far."""
    text = ":".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    try:
        near, far = (float(part) for part in text.split(":"))
    except ValueError:
        raise ValueError(f"expected NEAR:FAR in metres, such as 0.3:10, found {text!r}") from None
    if not 0 <= near < far < math.inf:
        raise ValueError(f"expected 0 <= NEAR < FAR, found {text!r}")
    return near, far


def read_bitrate(value: object) -> object:
    """Parse "64k", "1.5M" or plain digits as bits per second; other types are left to pydantic."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kM]?)", value.strip())
    if match is None:
        raise ValueError(f"expected bits per second, such as 64k or 1.5M, found {value!r}")
    return round(float(match[1]) * {"": 1, "k": 1_000, "M": 1_000_000}[match[2]])


def read_list(value: object) -> object:
    """Wrap a single value in a list."""
    return value if isinstance(value, list | tuple) else [value]


def check_switch(value: object) -> object:
    """Return a bool as it is; ValueError for what only resembles one, such as "yes" or 1."""
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def check_metadata(value: dict[str, Any]) -> dict[str, Any]:
    """Check a user's facts about a stream, sent in its info: text keys; text, numbers, booleans, lists and maps."""
    try:
        check_plain(value, "")
    except RecursionError as error:
        raise ValueError("expected maps and lists that do not hold themselves") from error
    size = len(msgspec.msgpack.encode(value))
    if size > MAX_METADATA:
        raise ValueError(f"expected at most {MAX_METADATA} bytes (as msgpack), this has {size}")
    return value


def check_plain(value: object, where: str) -> None:
    """Raise ValueError at the first value that JSON or some msgpack library cannot carry; the message says where."""
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


HOLD_HELP = "keep a token's level while the latent is within this margin (0.25): fewer bits, slightly less quality"
Switch = Annotated[bool, BeforeValidator(check_switch)]
Count = Annotated[int, Field(ge=1), Flag("N")]
Whole = Annotated[int, Field(ge=0), Flag("N")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), Flag("X")]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), Flag("X")]
Seconds = Annotated[Positive, Flag("SECONDS")]
Megabytes = Annotated[Positive, Flag("MB")]  # 10^6 bytes
Size = Annotated[tuple[int, int], BeforeValidator(read_size), Flag("HxW")]  # (height, width) in pixels
Range = Annotated[tuple[float, float], BeforeValidator(read_range), Flag("NEAR:FAR")]  # in metres
Bitrate = Annotated[int, BeforeValidator(read_bitrate), Field(ge=1, le=2**31 - 1), Flag("BITS")]  # per second
Hold = Annotated[float, Field(ge=0, le=1), Flag("LEVELS")]
Port = Annotated[int, Field(ge=0, le=65535), Flag("PORT")]
Endpoint = Annotated[str, AfterValidator(parse_endpoint), Flag("ENDPOINT")]
Device = Annotated[str, AfterValidator(parse_device), Flag("DEVICE")]
Model = Annotated[str, Field(min_length=1), Flag("MODEL")]
Engine = Annotated[str, Field(min_length=1), Flag("auto|eager|FILE")]
Name = Annotated[str, Field(pattern=f"^{NAME}$"), Flag("NAME")]
Texts = Annotated[list[str], BeforeValidator(read_list)]
Paths = Annotated[list[Path], BeforeValidator(read_list), Field(min_length=1)]
Names = Annotated[Texts, Flag("NAME", long="--stream")]
Group = Annotated[str, Field(min_length=1, coerce_numbers_to_str=True), Flag("GROUP")]
Metadata = Annotated[dict[str, Any], AfterValidator(check_metadata)]
SourceSpec = Annotated[  # stored in recordings without its password
    str, Field(min_length=1), PlainSerializer(without_password, when_used="json"), Flag("SRC")
]
File = Annotated[Path, Flag("FILE")]
Folder = Annotated[Path, Flag("DIR")]
FileOrFolder = Annotated[Path, Flag("FILE|DIR")]
