"""Tokenize many recorded drives: parallel, resumable, with the same bytes however often it is interrupted.

    streamtok tokenize drives/*.mcap --out tokens --workers 2
    streamtok tokenize --list drives.txt --out s3://bucket/tokens --shard 3/16
    streamtok tokenize drives/*.mcap --out tokens --runner ray --workers 16 --gpus 0.5
    streamtok tokenize --plan 100000 --size 256x448

A drive is what `streamtok replay` reads: a recording, a bag, a video, a folder. Recordings in a folder that do not
belong together are a drive each. When the command runs again, it skips drives that are done, and retries and lists
broken ones. `--plan` measures this machine and computes what so many hours of video need.
"""

import functools
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from streamtok.commands.command import make_main
from streamtok.fleet.options import DriveOptions, RunOptions
from streamtok.node.process import stop_on_signals
from streamtok.settings.fields import Engine, File, Flag, NotNegative, Positive, Switch, Texts, option
from streamtok.settings.shared import CommandSettings

if TYPE_CHECKING:
    from streamtok.fleet.model import FleetOptions


class TokenizeSettings(CommandSettings, RunOptions, DriveOptions):
    """Flags of `streamtok tokenize`."""

    drives: Annotated[Texts, Flag("DRIVE", positional=True)] = option(
        [], "recorded drives: paths, or URLs that fsspec opens"
    )
    listed: File | None = Field(
        default=None, alias="list", description="a text file with one drive per line, besides those given"
    )
    out: Annotated[str, Flag("OUT", short="-o")] | None = option(None, "folder or URL for the tokens")
    engine: Engine | None = option(None, "as for ingest")
    runner: Literal["local", "ray"] = option("local", "processes of this machine, or a Ray cluster")
    gpus: Annotated[NotNegative, Flag("GPUS")] = option(0.0, "ray: GPUs per worker, 0.5 lets two share one")
    plan: Annotated[Positive, Flag("HOURS")] | None = option(
        None, "only compute time, storage and cost for so many hours of video"
    )
    rate: Annotated[Positive, Flag("FPS")] | None = option(
        None, "plan: frames per second of one worker (default: measured here)"
    )
    fps: Annotated[Positive, Flag("FPS")] = option(30.0, "plan: frames per second of the video")
    price: Annotated[NotNegative, Flag("PRICE")] = option(0.05, "plan: cost of a worker's hour, here of a CPU core")
    quiet: Switch = option(False, "no progress bar")

    @model_validator(mode="after")
    def check_together(self) -> "TokenizeSettings":
        """Raise ValueError unless there are drives and an output, or a plan is asked for."""
        if self.plan is None and not (self.out and (self.drives or self.listed)):
            raise ValueError("give drives (or --list FILE) and --out, or --plan HOURS")
        return self

    def fleet_options(self) -> "FleetOptions":
        """The options of every drive, with the engine fixed for all workers."""
        from streamtok.fleet.model import FleetOptions, settle_engine

        options = FleetOptions(**self.model_dump(include=set(DriveOptions.model_fields)))
        return settle_engine(options, self.engine)


def run(settings: TokenizeSettings) -> int:
    """Plan or tokenize; returns 1 if a drive is broken or left."""
    if settings.plan is not None:
        from streamtok.fleet.plan import plan

        planned = plan(settings.plan, settings.fleet_options(), settings.fps, settings.rate, settings.price)
        print(settings.format_result(vars(planned), planned.report()))
        return 0
    result = run_fleet(settings)
    print(settings.format_result(result, format_outcome(result)))
    losses = [(drive, line) for drive, lines in result["losses"].items() for line in lines]
    for drive, words in [*losses, *result["broken"].items()]:
        print(f"streamtok tokenize: {drive}: {words}", file=sys.stderr)
    return 1 if result["broken"] or result["left"] else 0


def run_fleet(settings: TokenizeSettings) -> dict[str, Any]:
    """Tokenize all drives; returns the result of `Fleet.run`."""
    from streamtok.fleet.fleet import Fleet

    assert settings.out is not None  # checked by `check_together`
    listed = settings.listed.read_text(encoding="utf-8-sig").splitlines() if settings.listed else []
    drives = [*settings.drives, *filter(None, map(str.strip, listed))]
    make_runner = None
    if settings.runner == "ray":
        from streamtok.fleet.ray_runner import RayRunner, import_ray

        import_ray()
        make_runner = functools.partial(RayRunner, gpus=settings.gpus)
    fleet = Fleet(drives, settings.out, settings.fleet_options(), settings, make_runner)
    with stop_on_signals(fleet.stop):
        return fleet.run()


def format_outcome(result: dict[str, Any]) -> str:
    """The result as one line of text."""
    words = f"{result['done']} drives done, {result['skipped']} were done before, {len(result['broken'])} broken"
    words += f", {result['left']} left" if result["left"] else ""
    return f"{words}; {result['frames']} frames in {result['seconds']:.1f} s ({result['fps']:.1f} per second)"


main = make_main("tokenize", TokenizeSettings, run, __doc__)
