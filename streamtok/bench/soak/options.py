"""The options of a soak run, which are flags of `streamtok soak`, and the plan of faults that follows from them."""

import random
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BeforeValidator

from streamtok.settings.fields import Flag, Model, Seconds, Size, Strict, Whole, option, read_list

Reader = Literal["subscribe", "record", "decode"]


class SoakOptions(Strict):
    """Length, seed, readers and fault rate of a soak run."""

    seconds: Seconds = option(60.0, "duration, from when everything runs")
    seed: Whole = option(0, "seed of the faults and the camera")
    every: Seconds = option(4.0, "mean time between faults")
    readers: Annotated[list[Reader], BeforeValidator(read_list), Flag(long="--reader")] = option(
        ["subscribe", "record", "decode"], "only this reader (repeat it)"
    )
    size: Size = option((64, 96), "size of the camera's picture")
    model: Model = option("nano", "preset name or checkpoint folder")

    def plan(self, faults: Iterable[str]) -> list[tuple[float, str]]:
        """Draw (seconds after the start, fault) pairs. The node is killed in the first third only, so that the last one
        lives long enough for its memory to be judged."""
        named = [*faults]
        chance = random.Random(self.seed)
        planned, at = [], 0.0
        while (at := at + self.every * chance.uniform(0.5, 1.5)) < self.seconds:
            late = at > self.seconds / 3
            possible = [name for name in named if not (late and name == "kill_node")]
            possible = [name for name in possible if self.readers or not name.endswith("_reader")]
            if possible:
                planned.append((at, chance.choice(possible)))
        return planned
