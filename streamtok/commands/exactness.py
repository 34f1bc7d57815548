"""Measure the figures of docs/exactness.md: streams against whole clips, modes and precisions, on a synthetic drive.

streamtok exactness
streamtok exactness --models nano nano-p --frames 65
"""

from typing import Annotated

from streamtok.commands.command import make_main
from streamtok.settings.fields import Count, Flag, Strict, Texts, option


class ExactnessSettings(Strict):
    """Flags of `streamtok exactness`."""

    models: Annotated[Texts, Flag("MODEL", nargs="+")] = option(["nano", "nano-p"], "discrete video presets")
    frames: Count = option(17, "1 + a multiple of 4")


def run(settings: ExactnessSettings) -> int:
    """Print a Markdown table; returns 0."""
    from streamtok.bench.exactness import measure_exactness

    print("| comparison | model | found |\n| --- | --- | --- |")
    for name in settings.models:
        for comparison, found in measure_exactness(name, settings.frames):
            print(f"| {comparison} | `{name}` | {found} |", flush=True)
    return 0


main = make_main("exactness", ExactnessSettings, run, __doc__)
