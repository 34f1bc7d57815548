"""Tokenizes one drive of a fleet: the same bytes whenever and wherever it runs. Runners call `try_job` in workers."""

import hashlib
import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from streamtok.drives.drive_names import parse_drive, resolve_drive
from streamtok.drives.folders import find_kind
from streamtok.fleet.model import FleetOptions
from streamtok.fleet.store import Store, local_copy, measure_size, open_store
from streamtok.io.messages.image_messages import image_kind
from streamtok.io.suffixes import is_image
from streamtok.io.video import VideoReader
from streamtok.model import Tokenizer
from streamtok.names import is_url
from streamtok.node.replay_node import ReplayNode
from streamtok.recording.mcap_file import McapFile
from streamtok.settings.replay import ReplaySettings
from streamtok.settings.shared import FrameSettings, ReadSettings
from streamtok.tokens.stream_files import find_stream_name
from streamtok.tokens.tokenfile import TokenFile

RECORD = "drive.json"
MOST_NOTES = 100
Report = Callable[[int, float], bool]
"""Called with the frames done so far and the share of the drive (0..1, 0 if unknown); returns whether to go on."""


class Job(NamedTuple):
    """One drive to tokenize: its path or URL, the name of its output folder, and its size in bytes."""

    drive: str
    name: str
    size: int


class Outcome(NamedTuple):
    """How a job ended: its record or error. `died`: a worker process died meanwhile; `sure`: it was this job's."""

    job: Job
    record: dict[str, Any] | None = None
    error: str = ""
    died: bool = False
    sure: bool = True


class Stopped(Exception):
    """The run was told to stop."""


def make_job(drive: str) -> Job:
    """Make a drive's job, with a hash of its path in the name, so that no two share a folder; FileNotFoundError."""
    path = drive if is_url(drive) else resolve_drive(drive)
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(path.rstrip("/")).stem)[:80] or "drive"
    return Job(path, f"{stem}-{hash_path(path):08x}", measure_size(path))


def hash_path(path: str) -> int:
    """A 32-bit hash of a path, the same on every machine; it spreads drives evenly over shards."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big")


def run_job(
    job: Job, out: str, options: FleetOptions, tok: Tokenizer, report: Report = lambda frames, share: True
) -> dict[str, Any]:
    """Tokenize one drive into `out`; returns its record, which is also `drive.json` beside its token files.

    Raises:
        Stopped: if `report` returned False.
        ValueError, OSError: if nothing of the drive can be read, or a file of it no longer; the record lists damage.
    """
    store = open_store(out)
    with local_copy(job.drive) as path, store.workspace(job.name) as folder:
        summary = _replay_drive(path, folder, options, tok, report)
        if summary["failure"]:
            raise OSError(f"{job.drive}: {summary['failure']}")
        files = [_describe_file(file) for file in sorted(folder.glob("*.safetensors"))]
        if not files:
            reasons = "; ".join(summary["notes"]) or "it is empty"
            raise ValueError(f"{job.drive}: no frame of it could be encoded: {reasons}")
        record = {
            "drive": job.drive,
            "name": job.name,
            "bytes": job.size,
            "tokenizer": tok.fingerprint,
            "options": options.model_dump(mode="json"),
            "files": files,
            "skipped": summary["skipped"],
            "cameras": summary["cameras"],
            "notes": summary["notes"][:MOST_NOTES],
        }
        (folder / RECORD).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
        store.commit(folder, job.name)
    return record


def try_job(job: Job, *args: Any) -> Outcome:
    """Run a job and return any exception as its outcome, so that one drive cannot end the others."""
    try:
        return Outcome(job, run_job(job, *args))
    except Exception as problem:
        return Outcome(job, None, f"{type(problem).__name__}: {problem}")


def find_record(store: Store, job: Job, options: FleetOptions, tokenizer: str, check: bool) -> dict[str, Any] | None:
    """The record of a drive that is done with these options, else None; `check` compares checksums, not only sizes."""
    data = store.read(f"{job.name}/{RECORD}")
    if data is None:
        return None
    try:
        record = json.loads(data)
        found = record["drive"], record["bytes"], record["tokenizer"], FleetOptions.model_validate(record["options"])
    except (ValueError, KeyError):
        return None
    if found != (job.drive, job.size, tokenizer, options):
        return None
    for file in record["files"]:
        name = f"{job.name}/{file['path']}"
        if store.size(name) != file["bytes"]:
            return None
        if check and hashlib.sha256(store.read(name) or b"").hexdigest() != file["sha256"]:
            return None
    return record


def count_expected_frames(path: Path) -> int:
    """How many frames a drive claims to have, for progress only; 0 if it does not say."""
    path, options = parse_drive(path)
    if path.is_dir():
        return sum(map(is_image, path.rglob("*")))
    kind = find_kind(path)
    if kind == "mcap":
        file = McapFile(path)
        images = {number for number, schema in file.schemas.items() if image_kind(schema.name)}
        return sum(file.counts.get(number, 0) for number, c in file.channels.items() if c.schema_id in images)
    if kind == "video":
        with suppress(ValueError), VideoReader(path, **{"stream": 0} | options) as video:  # replay reports the error
            return video.expected_frames
    return 0


def _replay_drive(path: Path, folder: Path, options: FleetOptions, tok: Tokenizer, report: Report) -> dict[str, Any]:
    expected = count_expected_frames(path)

    def on_update(node: ReplayNode) -> None:
        frames = sum(counts["frames"] for counts in node.counts.values())
        if not report(frames, min(1.0, frames / expected) if expected else 0.0):
            raise Stopped

    chosen = options.model_dump(
        include={"model", "context", "streams", *FrameSettings.model_fields, *ReadSettings.model_fields}
    )
    node = ReplayNode(ReplaySettings(path=path, out=folder, **chosen), tok, on_update)
    if any(info.tokenizer != tok.fingerprint for info in node.infos.values()):
        # The tokens are of another tokenizer, so its group boundaries do not apply: read only the frames.
        node.mode, node.infos = "drive", {}
    return node.run()


def _describe_file(file: Path) -> dict[str, Any]:
    with open(file, "rb") as data:
        digest = hashlib.file_digest(data, "sha256")
    written, stream = TokenFile(file), find_stream_name(file)
    facts = {"path": file.name, "stream": stream, "bytes": file.stat().st_size, "sha256": digest.hexdigest()}
    counts = {name: written.meta[name] for name in ("groups", "frames", "dropped")}
    return facts | counts | {"keyframes": int(written.keyframe.sum())}
