"""Report what this machine can do and what is missing, or what a source is and how it would be read.

    streamtok doctor
    streamtok doctor drive.ts
    streamtok doctor 'images:DIR?unit=ns' --json
    streamtok doctor rtsp://192.168.1.10/stream1

Without a source it also measures how many cameras this machine can serve. A source is anything that `streamtok ingest`,
`encode`, `replay` or `info` takes; it is opened and read for a while. The exit status is 1 if something does not work.
"""

import contextlib
import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from streamtok.bench.machine_checks import BAD, NOTE, OK, run_checks
from streamtok.commands.command import make_main
from streamtok.io.spec import split_file
from streamtok.redaction import without_password
from streamtok.settings.fields import Count, Flag, Folder, option
from streamtok.settings.shared import CommandSettings

if TYPE_CHECKING:
    from streamtok.io.probe import Probe

MARKS = {OK: "ok  ", NOTE: "note", BAD: "BAD "}


class DoctorSettings(CommandSettings):
    """Flags of `streamtok doctor`."""

    source: Annotated[str, Flag("SRC", positional=True)] | None = option(None, "look at this, not at the machine")
    frames: Count = option(300, "read so many frames of the source; of a camera for 10 s at most")
    measure: bool = option(True, "also time how many cameras this machine carries")
    folder: Folder = option(Path("."), "where recordings would go")


def run(settings: DoctorSettings) -> int:
    """Print the report; returns 1 if something that streamtok needs, or the source, does not work."""
    if settings.source is not None:
        try:
            return look_at_source(settings, settings.source)
        except (OSError, ValueError) as error:
            if not settings.as_json:
                raise
            found = {"ok": False, "source": without_password(settings.source), "error": without_password(str(error))}
            print(json.dumps(found))
            return 1
    checks = run_checks(settings.folder, settings.measure)
    bad, lines = any(check.state == BAD for check in checks), []
    for check in checks:
        lines.append(f"{MARKS[check.state]}  {check.name:<10} {check.found}")
        lines += [f"{'':<17}-> {check.advice}"] if check.advice else []
    lines.append("\nsomething that streamtok needs does not work" if bad else "\nready: try `streamtok demo`")
    facts = {"ok": not bad, "checks": [asdict(check) for check in checks]}
    print(settings.format_result(facts, "\n".join(lines)))
    return int(bad)


def look_at_source(settings: DoctorSettings, source: str) -> int:
    """Print what a source, a drive or tokens are; returns 1 if no frame comes, and of files where `info` does.

    Raises OSError or ValueError as opening them does.

    Readers are imported here, so that the machine's checks run even if OpenCV, PyAV or ZeroMQ cannot be imported.
    """
    from streamtok.commands.info import find_failure, format_contents
    from streamtok.io.probe import probe_source
    from streamtok.tokens.inspecting import inspect

    named = Path(source)
    if named.suffix in (".yaml", ".yml") and named.is_file() and named.name != "metadata.yaml":  # that of a ROS bag
        raise ValueError(f"{source} is no source but a configuration: name a source of it, or run ingest --config")
    if is_drive(source):
        report = inspect(source, progress=True).report
        failure = find_failure(report)
        words = f"{format_contents(report)}\n\n{failure or name_reader(source, report)}"
        print(settings.format_result({"ok": failure is None, "source": source, **report}, words))
        return int(failure is not None)
    found = probe_source(source, settings.frames)
    print(settings.format_result({"ok": found.frames > 0, **asdict(found)}, format_probe(found)))
    return int(found.frames == 0)


def name_reader(source: str, report: dict[str, Any]) -> str:
    """The command that reads what `inspect` has reported: `replay` for frames, `export` for tokens alone."""
    if report.get("cameras"):
        return f"replay it: streamtok replay {shlex.quote(source)}"
    return f"export them: streamtok export {shlex.join(report['files'])} --to webdataset -o shards"


def is_drive(source: str) -> bool:
    """Whether a source is one that `info` reads whole: a folder, or a file other than a video."""
    from streamtok.drives.folders import find_kind
    from streamtok.tokens.tokenfile import is_token_file

    with contextlib.suppress(ValueError):
        path, _ = split_file(source)
        return path.is_dir() or (path.is_file() and (is_token_file(path) or find_kind(path) != "video"))
    return False


def format_probe(found: "Probe") -> str:
    """The findings on a source as lines of text."""
    rates = {"claimed": found.claimed_rate, "by its times": found.rate}
    rate = ", ".join(f"{rate:.4g} {what}" for what, rate in rates.items() if rate) or "not known"
    places = ", ".join(f"{count} behind {seconds:.3f} s" for seconds, count in found.missing[:5])
    missing = f"{sum(count for _, count in found.missing)} frames missing{places and f': {places}'}"
    lines = [
        ("kind", f"{found.kind}{f', {found.container}' if found.container else ''}{', live' if found.live else ''}"),
        *(("stream", str(stream)) for stream in found.streams),
        ("frames", f"{found.frames}{', all of it' if found.complete else ''}"),
        ("size", ", then ".join(f"{height}x{width}" for height, width in found.sizes) or "not known"),
        ("rate", f"{rate} ({found.rate_from})"),
        ("clock", found.clock),
        ("turned", found.orientation),
        ("gaps", f"{found.time_gaps} in time, {missing}"),
        ("counts", ", ".join(f"{count} {name}" for name, count in found.counts.items()) or "none"),
        *(("note", note) for note in found.notes),
        *(("does", text) for text in found.does),
    ]
    return "\n".join(f"{name:<8} {text}" for name, text in lines)


main = make_main("doctor", DoctorSettings, run, __doc__)
