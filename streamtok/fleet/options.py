"""The options of tokenizing many drives. This module loads quickly: it imports no model."""

import re
from typing import Annotated

from pydantic import BeforeValidator

from streamtok.settings.fields import Count, Flag, Model, Names, Strict, Switch, Whole, option
from streamtok.settings.shared import ComputeSettings, FrameSettings, ReadSettings


def read_shard(value: object) -> tuple[int, int]:
    """Parse "0/4" or (0, 4) as (index, count)."""
    text = "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise ValueError("expected 0/n to n-1/n")
    return int(match[1]), int(match[2])


class DriveOptions(FrameSettings, ReadSettings, ComputeSettings):
    """How every drive is tokenized. `threads` is fixed because the last bits of a latent may depend on it on a CPU."""

    model: Model = option("nano", "preset name or checkpoint folder")
    streams: Names | None = option(None, "only this camera, by topic or stream (repeat it)")
    threads: Count = option(1, "CPU threads per worker; part of what decides the tokens")


class RunOptions(Strict):
    """How a run works, which never changes its output. `shard` (i, n) takes the drives whose hash is i modulo n."""

    workers: Count = option(1, "drives at a time")
    shard: Annotated[tuple[int, int], BeforeValidator(read_shard), Flag("i/N")] = option(
        (0, 1), "the i-th of N machines, counted from 0, which share the list"
    )
    retries: Whole = option(1, "retries of a broken drive within this run")
    check: Switch = option(False, "compare the checksums of drives that are done")
    quiet: bool = True
