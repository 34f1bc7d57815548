"""What tokenizing many drives is told; no model is needed to say it."""

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

from streamtok.settings.fields import Count, Flag, Model, Names, Strict, Switch, Whole
from streamtok.settings.shared import ComputeSettings, FrameSettings, ReadSettings


def read_shard(value: object) -> tuple[int, int]:
    """ "0/4" or (0, 4) as a pair."""
    text = "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise ValueError("expected 0/n to n-1/n")
    return int(match[1]), int(match[2])


class DriveOptions(FrameSettings, ReadSettings, ComputeSettings):
    """How every drive is tokenized; `threads` is fixed, since on a CPU the last bits of a latent may depend on it."""

    model: Model = Field(default="nano", description="preset name or checkpoint folder")
    streams: Names | None = Field(default=None, description="only this camera, by topic or stream (repeat it)")
    threads: Count = Field(default=1, description="CPU threads per worker; part of what decides the tokens")


class RunOptions(Strict):
    """How a run goes about it, which never changes its output; `shard` (i, n) takes drives whose hash is i modulo n."""

    workers: Count = Field(default=1, description="drives at a time")
    shard: Annotated[tuple[int, int], BeforeValidator(read_shard), Flag("i/N")] = Field(
        default=(0, 1), description="the i-th of N machines, counted from 0, which share the list"
    )
    retries: Whole = Field(default=1, description="tries again for a broken drive, within this run")
    check: Switch = Field(default=False, description="read what is done and compare its checksums")
    progress: bool = False
