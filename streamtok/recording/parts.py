"""Find the files of one recording: the order of its parts, missing ones, and packed or repaired copies.

Recorders split long recordings: `NAME_0`, `NAME_1`, ... with a metadata.yaml that lists them (ROS 2), `NAME_0.bag`
(ROS 1), `NAME`, `NAME_001`, ... (ours). Any of these files may be gone, empty, renamed or newer than the list.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from os.path import splitext
from pathlib import Path
from typing import TypeVar

import yaml

from streamtok.names import natural_key
from streamtok.recording.packing import SUFFIXES as PACKED
from streamtok.recording.packing import bare_name, read_head, unpacked_size

File = TypeVar("File")
SUFFIXES = (".mcap", ".db3", ".bag")
NUMBERED = re.compile(r"(.+?)_(\d+)")
REPAIRED, KEPT = "_repaired", ".orig.bag"


@dataclass
class Parts:
    """The files of one recording in order, and notes on what was found wrong or had to be guessed."""

    paths: list[Path]
    notes: list[str] = field(default_factory=list)


def part_name(path: Path) -> tuple[str, int]:
    """(name of the recording, number of the part) by a file's name; -1 if it has no number."""
    stem = bare_name(path).removesuffix(".active")
    stem = stem.removesuffix(Path(stem).suffix).removesuffix(REPAIRED)
    match = NUMBERED.fullmatch(stem)
    return (match[1], int(match[2])) if match else (stem, -1)


def suffix_of(path: Path) -> str:
    """The suffix of a file's name without those of its packing and of `.active` (ROS 1)."""
    name, suffix = splitext(path.name.lower())  # for every image of a folder: a Path takes three times as long
    if suffix in PACKED:
        name, suffix = splitext(name)
    return splitext(name)[1] if suffix == ".active" else suffix


def list_files(folder: Path) -> Parts:
    """The recording files in a folder, in the order of its metadata.yaml or else by number; empty ones are left out
    with a note."""
    visible = [path for path in folder.iterdir() if not path.name.startswith(".")]  # macOS leaves ._NAME beside files
    named = [path for path in visible if suffix_of(path) in SUFFIXES and not path.is_dir()]
    whole = leave_out_copies(sorted(filter(Path.exists, named), key=natural_key))
    found, (listed, notes) = sorted(whole.paths, key=part_name), read_list(folder)
    notes += [f"{path.name} links to a file that is not there" for path in named if not path.exists()] + whole.notes
    there = {path.name: path for path in found}
    forms = {bare_name(path): path.name for path in found}
    names = [name if name in there else forms.get(bare_name(Path(name)), name) for name in listed or ()]
    if listed is not None and found and there.keys().isdisjoint(names):
        notes.append(f"metadata.yaml lists {', '.join(names[:3]) or 'nothing'}, which is not there")
    if there.keys().isdisjoint(names):
        names = list(there)
    notes += [f"{name} is listed in metadata.yaml and is not there" for name in names if name not in there]
    notes += [f"{name} is not listed in metadata.yaml; it is read too" for name in there if name not in names]
    in_order = [there[name] for name in dict.fromkeys(names) if name in there]
    for path in found:
        if path.name not in names:  # it comes after the part with the number before
            before = [n for n, other in enumerate(in_order, 1) if part_name(other) < part_name(path)]
            in_order.insert(max(before, default=0), path)
    notes += [f"{path.name} is empty" for path in in_order if not path.stat().st_size]
    return Parts([path for path in in_order if path.stat().st_size], notes)


def read_list(folder: Path) -> tuple[list[str] | None, list[str]]:
    """The file names that metadata.yaml lists (None if it lists none), and notes on what is wrong with it."""
    path = folder / "metadata.yaml"
    if not path.is_file():
        return None, []
    try:
        described = yaml.safe_load(path.read_text(encoding="utf-8", errors="replace"))
        names = described["rosbag2_bagfile_information"]["relative_file_paths"]
        return [Path(str(name)).name for name in names], []
    except (yaml.YAMLError, KeyError, TypeError, RecursionError) as error:
        reason = "it is empty" if not path.stat().st_size else str(error).splitlines()[0]
        return None, [f"metadata.yaml cannot be read ({reason}); the files are read by their numbers"]


def find_missing(paths: Iterable[Path]) -> list[str]:
    """Notes on missing parts of one recording, by the numbers of those that are there."""
    found = [part_name(path) for path in paths]
    numbers = {number for _, number in found}
    gone = sorted(set(range(1 if -1 in numbers else 0, max(numbers, default=0))) - numbers) if len(found) > 1 else []
    return [f"part {', '.join(map(str, gone[:10]))} of {found[0][0]} is not there"] if gone else []


def leave_out_copies(paths: list[Path]) -> Parts:
    """The files without copies, which are noted.

    `streamtok repair` writes NAME_repaired beside a file, rosbag keeps NAME.orig.bag beside what it makes of it, and
    players of ROS 2 leave both the packed (NAME.zstd) and the unpacked file.
    """
    forms: dict[Path, list[Path]] = {}
    for path in paths:
        forms.setdefault(path.with_name(bare_name(path)), []).append(path)
    kept, notes = [], []
    for bare, there in forms.items():
        made = [bare.with_name(f"{bare.stem}{REPAIRED}{bare.suffix}")]
        if bare.name.endswith(KEPT):
            made += filter(_is_closed_bag, [bare.with_name(bare.name.removesuffix(KEPT) + ".bag")])
        later = next((path for path in made if path in forms), None)
        best, how = (later, "was made of it") if later else (_best_form(bare, there), "is another form")
        kept += [best] if best in there else []
        notes += [f"{path.name} is left out: {best.name} {how}" for path in there if path != best]
    return Parts(kept, notes)


def _is_closed_bag(path: Path) -> bool:
    """Whether a ROS 1 bag was closed: its first record then says where in it the index lies."""
    found = re.search(rb"index_pos=(.{8})", read_head(path, 1 << 12), re.DOTALL) if path.is_file() else None
    return found is not None and 0 < int.from_bytes(found[1], "little") < path.stat().st_size


def _best_form(bare: Path, there: list[Path]) -> Path:
    """The form of a file to read: the unpacked one, unless it is shorter than zstd says of the packed one."""
    packed = next((path for path in there if path != bare), bare)
    if bare not in there or packed == bare:
        return packed
    return bare if bare.stat().st_size >= unpacked_size(packed) else packed


def open_each(paths: Iterable[Path], open_file: Callable[[Path], File]) -> tuple[list[File], list[str]]:
    """Open the files of one recording: (files, notes on those that cannot be read and are left out).

    Raises what `open_file` does (ValueError, OSError) for a single file, ValueError if none can be read.
    """
    files, faults, paths = [], [], list(paths)
    for path in paths:
        try:
            files.append(open_file(path))
        except (ValueError, OSError) as error:
            if len(paths) == 1:
                raise
            faults.append(f"{path.name} is left out: {error}")
    if paths and not files:
        raise ValueError("; ".join(faults))
    return files, faults
