"""Run a real node with readers under random faults, and check that it keeps its promises.

    streamtok soak --seconds 60 --seed 3 --out soak.json
    streamtok soak --fault kill_node --fault flood_requests --every 2

It starts `streamtok ingest` with a synthetic camera, which records, and beside it a subscriber, a recorder, a decoder
and a metrics scraper. The seed decides the faults and their times. Status 1 means that a promise was broken.
"""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from streamtok.bench.soak.options import SoakOptions
from streamtok.commands.command import make_main
from streamtok.settings.fields import File, Flag, Folder, option, read_list
from streamtok.settings.shared import CommandSettings

FaultName = Literal[
    "kill_reader",
    "stop_reader",
    "stop_node",
    "kill_node",
    "flood_requests",
    "flood_subscriptions",
    "idle_connections",
    "hostile_publisher",
    "link_down",
    "disk_full",
    "clock_jump",
]


class SoakSettings(CommandSettings, SoakOptions):
    """Settings of a run, its faults, and where its report goes."""

    out: Annotated[File, Flag(short="-o")] | None = option(None, "also write the report here (JSON)")
    faults: Annotated[list[FaultName], BeforeValidator(read_list), Flag(long="--fault")] | None = option(
        None, "only this fault (repeat it; default: all)"
    )
    keep: Folder | None = option(None, "keep logs, recordings and pictures in this new folder")


def run(settings: SoakSettings) -> int:
    """Run, then print and write the report; returns 1 if a promise was broken."""
    from streamtok.bench.soak.faults import FAULTS
    from streamtok.bench.soak.run import Soak

    faults = {name: FAULTS[name] for name in settings.faults or FAULTS}
    with tempfile.TemporaryDirectory(prefix="streamtok-soak-") as temporary:
        folder = settings.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=folder == Path(temporary))
        report = Soak(settings, folder).run(faults)
    if settings.out is not None:
        settings.out.parent.mkdir(parents=True, exist_ok=True)
        settings.out.write_text(json.dumps(report, indent=1) + "\n")
    print(settings.format_result(report, format_soak(report)))
    return 0 if report["kept"] else 1


def format_soak(report: dict[str, Any]) -> str:
    """The report as lines of text."""
    faults = ", ".join(f"{name} {count}" for name, count in sorted(report["faults"].items())) or "none"
    lines = [f"{report['seconds']} s, seed {report['seed']}; faults: {faults}"]
    for name, found in report["promises"].items():
        verdict = f"broken {found['broken']} of {found['checked']}" if found["broken"] else f"kept {found['checked']}"
        lines += [f"  {verdict:>12}  {name}", *(f"{'':16}{example}" for example in found["examples"])]
    lines += [f"  {name}: {json.dumps(value)}" for name, value in report["figures"].items()]
    return "\n".join([*lines, "every promise was kept" if report["kept"] else "PROMISES WERE BROKEN"])


main = make_main("soak", SoakSettings, run, __doc__)
